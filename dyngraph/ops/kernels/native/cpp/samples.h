// Sender maps, the nodes that listen to them, and the edges that their samples make.

#pragma once

#include "corners.h"

namespace dyngraph {
namespace VARIANT {

// Memory of one task, with room behind it for a vector, be it of floats that become doubles. It
// starts with a line of the cache: malloc's would have vectors lie across two.
template <class A> class Buffer {
 public:
  explicit Buffer(int64_t count)
      : memory_(malloc(count * sizeof(A) + 2 * VECTOR_BYTES + kLine)),
        data_(reinterpret_cast<A*>((reinterpret_cast<uintptr_t>(memory_) + kLine) & -kLine)) {
    ask_for_large_pages(data_, count * sizeof(A));
  }
  ~Buffer() { free(memory_); }
  Buffer(const Buffer&) = delete;
  operator A*() const { return data_; }

 private:
  void* memory_;
  A* data_;
};

// `run_tasks` for a body that is any function of the task's number.
template <class Body> inline void parallel(int64_t tasks, int64_t threads, const Body& body) {
  run_tasks(
      tasks, threads,
      [](void* context, int64_t task) { (*static_cast<const Body*>(context))(task); },
      const_cast<Body*>(&body));
}

// One image: its senders, on all levels, and the nodes that listen to them.
struct Image {
  int64_t first_sender, senders;
  int64_t first_receiver, receivers;
  const int64_t* shapes;  // of its levels
};

inline int64_t lengths_of_shape(const Samples& samples) { return samples.axes ? samples.axes : 1; }

inline int64_t size_of_shape(const Samples& samples, const int64_t* shape) {
  int64_t product = 1;
  for (int64_t a = 0; a < lengths_of_shape(samples); ++a) product *= shape[a];
  return product;
}

// Calls `run(image)` for each of the first images of all parts, and `images`, how many follow that
// are the same but for where they start.
template <class Run> inline void for_parts(const Samples& samples, const Run& run) {
  const int64_t levels = samples.maps[0];
  Image image = {};
  for (const int64_t* part = samples.maps + 1 + levels; part < samples.maps + samples.numbers;
       part = image.shapes + levels * lengths_of_shape(samples)) {
    const int64_t images = part[0];
    image.receivers = part[1];
    image.shapes = part + 2;
    image.senders = 0;
    for (int64_t l = 0; l < levels; ++l) {
      image.senders += size_of_shape(samples, image.shapes + l * lengths_of_shape(samples));
    }
    run(image, images);
    image.first_receiver += images * image.receivers;
    image.first_sender += images * image.senders;
  }
}

inline Image image_of_part(Image first, int64_t number) {
  first.first_sender += number * first.senders;
  first.first_receiver += number * first.receivers;
  return first;
}

// The corners of the samples of one image's nodes: from a node to each an edge.
template <class A> class Edges {
 public:
  Edges(const Samples& samples, const Image& image)
      : samples_(samples),
        end_(image.first_receiver + image.receivers),
        padded_(samples.samples + Lanes<float>::count),
        integers_((samples.axes + 1) * padded_),
        reals_((samples.axes + 1) * padded_ * 2) {
    if (samples.dtype == kFloat) describe<float>(image);
    if (samples.dtype == kDouble) describe<double>(image);
  }

  // Where the positions of a node and of a group are, in bytes from the first, and how many.
  int64_t start(int64_t node, int64_t h) const { return (node * samples_.own + h) * bytes(); }
  int64_t bytes() const {
    if (samples_.axes == 0) return samples_.samples * (samples_.dtype == kInt ? 4 : 8);
    return samples_.samples * samples_.axes * (samples_.dtype == kFloat ? 4 : 8);
  }

  // Sender and weight of each of the edges [2^P, K] of a node and of a group with its own samples.
  void find(int64_t node, int64_t h, int32_t* sender, A* weight) const {
    const int64_t place = node * samples_.own + h;
    if (samples_.axes == 0) {
      const int64_t first = place * samples_.samples;
      const auto* ints = static_cast<const int32_t*>(samples_.pos) + first;
      const auto* longs = static_cast<const int64_t*>(samples_.pos) + first;
      for (int64_t k = 0; k < samples_.samples; ++k) {
        sender[k] = samples_.dtype == kInt ? ints[k] : static_cast<int32_t>(longs[k]);
        weight[k] = 1;
      }
      return;
    }
    with_types(place, [&](auto* pos, const auto& maps) {
      find_corners(pos, left(place), samples_.samples, maps, samples_.border, sender, weight);
    });
  }

  // Adds to the gradient of positions, [N, H, K, P] or null, that of the weights of edges.
  void add_gradient(int64_t node, int64_t h, const A* grad_weight, void* grad_pos) const {
    const int64_t place = node * samples_.own + h;
    with_types(place, [&](auto* pos, const auto& maps) {
      using Q = std::remove_const_t<std::remove_pointer_t<decltype(pos)>>;
      Q* grad = static_cast<Q*>(grad_pos) + (pos - static_cast<const Q*>(samples_.pos));
      add_pos_gradient(grad_weight, pos, left(place), samples_.samples, maps, samples_.border,
                       grad);
    });
  }

 private:
  // The samples from a place to the image's end.
  int64_t left(int64_t place) const { return (end_ * samples_.own - place) * samples_.samples; }

  template <class Q> void describe(const Image& image) {
    Q* reals = reinterpret_cast<Q*>(static_cast<float*>(reals_));
    const int64_t levels = samples_.maps[0], axes = samples_.axes;
    int64_t sender = image.first_sender, k = 0;
    for (int64_t l = 0; l < levels; ++l) {
      const int64_t* shape = image.shapes + l * axes;
      const int64_t size = size_of_shape(samples_, shape);
      const int64_t end = l + 1 < levels ? k + samples_.maps[1 + l] : padded_;
      for (; k < end; ++k) {
        for (int64_t a = 0; a < axes; ++a) {
          integers_[a * padded_ + k] = size ? static_cast<int32_t>(shape[a]) : 0;
          reals[a * padded_ + k] = size ? static_cast<Q>(shape[a] - 1) : 0;
        }
        // Of a map without nodes, any sender of the image, with weight 0.
        integers_[axes * padded_ + k] = static_cast<int32_t>(
            size ? sender : image.senders ? image.first_sender : 0);
        reals[axes * padded_ + k] = size ? 1 : 0;
      }
      sender += size;
    }
  }

  // Calls `run` with the positions at a place, as what they are, and the maps that they are on.
  template <class Run> void with_types(int64_t place, const Run& run) const {
    if (samples_.dtype == kFloat) {
      with_axes<float>(place, run);
    } else {
      with_axes<double>(place, run);
    }
  }

  template <class Q, class Run> void with_axes(int64_t place, const Run& run) const {
    if (samples_.axes == 1) run(at<Q>(place), maps<1, Q>());
    if (samples_.axes == 2) run(at<Q>(place), maps<2, Q>());
    if (samples_.axes == 3) run(at<Q>(place), maps<3, Q>());
  }

  template <class Q> const Q* at(int64_t place) const {
    return static_cast<const Q*>(samples_.pos) + place * samples_.samples * samples_.axes;
  }

  template <int P, class Q> MapOfSample<P, Q> maps() const {
    const Q* reals = reinterpret_cast<const Q*>(static_cast<const float*>(reals_));
    MapOfSample<P, Q> found;
    for (int a = 0; a < P; ++a) {
      found.length[a] = integers_ + a * padded_;
      found.last[a] = reals + a * padded_;
    }
    found.first = integers_ + P * padded_;
    found.exists = reals + P * padded_;
    return found;
  }

  const Samples& samples_;
  const int64_t end_;
  const int64_t padded_;
  const Buffer<int32_t> integers_;
  const Buffer<float> reals_;
};

}  // namespace VARIANT
}  // namespace dyngraph
