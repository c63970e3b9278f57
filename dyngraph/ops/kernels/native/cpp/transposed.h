// The graph of samples, seen from its senders.

#pragma once

#include "samples.h"

namespace dyngraph {
namespace VARIANT {

// For each sender of an image, the edges that leave it, in the order of receivers.
template <class A> class Transposed {
 public:
  Transposed(const Samples& samples, const Image& image, int64_t threads)
      : degree_(samples.samples << samples.axes),
        start_(image.senders + 1),
        receiver(image.receivers * degree_),
        sample(image.receivers * degree_),
        weight(image.receivers * degree_) {
    const int64_t ranges = threads < image.senders ? threads : image.senders;
    const Buffer<int64_t> end(image.senders + 1);
    __builtin_memset(end, 0, (image.senders + 1) * sizeof(int64_t));
    // A counting sort. Each thread has senders of its own, and goes through all nodes.
    const auto for_edges = [&](const auto& run) {
      parallel(ranges, threads, [&](int64_t range) {
        const int64_t low = image.senders * range / ranges;
        const int64_t high = image.senders * (range + 1) / ranges;
        const Edges<A> edges(samples, image);
        const Buffer<int32_t> senders(degree_);
        const Buffer<A> weights(degree_);
        for (int64_t i = 0; i < image.receivers; ++i) {
          const int64_t node = image.first_receiver + i;
          edges.find(node, 0, senders, weights);
          for (int64_t e = 0; e < degree_; ++e) {
            const int64_t sender = senders[e] - image.first_sender;
            if (sender >= low && sender < high) run(node, e, sender, weights[e]);
          }
        }
      });
    };
    for_edges([&](int64_t, int64_t, int64_t sender, A) { ++end[sender]; });
    int64_t total = 0;
    for (int64_t s = 0; s <= image.senders; ++s) {
      const int64_t count = end[s];
      start_[s] = end[s] = total;
      total += count;
    }
    for_edges([&](int64_t node, int64_t e, int64_t sender, A w) {
      const int64_t place = end[sender]++;
      receiver[place] = static_cast<int32_t>(node);
      sample[place] = static_cast<int32_t>(e % samples.samples);
      weight[place] = w;
    });
  }

  int64_t start(int64_t sender) const { return start_[sender]; }
  int64_t count(int64_t sender) const { return start_[sender + 1] - start_[sender]; }

 private:
  const int64_t degree_;
  const Buffer<int64_t> start_;

 public:
  const Buffer<int32_t> receiver, sample;
  const Buffer<A> weight;
};

}  // namespace VARIANT
}  // namespace dyngraph
