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
    // A counting sort. Each thread has receivers of its own, which follow one another.
    const int64_t ranges = threads < image.receivers ? threads : image.receivers;
    const Buffer<int64_t> places(ranges * image.senders);
    __builtin_memset(places, 0, ranges * image.senders * sizeof(int64_t));
    const auto for_edges = [&](const auto& run) {
      parallel(ranges, threads, [&](int64_t range) {
        const Edges<A> edges(samples, image);
        const Buffer<int32_t> senders(degree_);
        const Buffer<A> weights(degree_);
        int64_t* of_sender = places + range * image.senders;
        const int64_t end = image.receivers * (range + 1) / ranges;
        for (int64_t i = image.receivers * range / ranges; i < end; ++i) {
          const int64_t node = image.first_receiver + i;
          edges.find(node, 0, senders, weights);
          for (int64_t e = 0; e < degree_; ++e) {
            run(of_sender[senders[e] - image.first_sender], node, e, weights[e]);
          }
        }
      });
    };
    for_edges([](int64_t& count, int64_t, int64_t, A) { ++count; });
    // Where the edges of a sender start, and in them those of each thread.
    int64_t total = 0;
    for (int64_t s = 0; s < image.senders; ++s) {
      start_[s] = total;
      for (int64_t range = 0; range < ranges; ++range) {
        int64_t& place = places[range * image.senders + s];
        const int64_t count = place;
        place = total;
        total += count;
      }
    }
    start_[image.senders] = total;
    for_edges([&](int64_t& next, int64_t node, int64_t e, A w) {
      const int64_t place = next++;
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
