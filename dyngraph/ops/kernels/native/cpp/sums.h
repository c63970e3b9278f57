// The kernels: each a pass over nodes, or over senders, and one table.

#pragma once

#include "rows.h"
#include "transposed.h"

namespace dyngraph {
namespace VARIANT {

// Nodes, or senders, of a task.
constexpr int64_t kStep = 64;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Numbers [G, K] of each node.
template <class A> struct Numbers {
  A* data;
  int64_t groups, samples;

  A* at(int64_t node, int64_t group) const { return data + (node * groups + group) * samples; }
};

// For each sample, the weighted sum over its corners of numbers [2^P, K].
template <class A>
inline void sum_corners(const A* numbers, const A* weight, int64_t samples, int64_t corners,
                        A* sums) {
  for (int64_t k = 0; k < samples; ++k) sums[k] = numbers[k] * weight[k];
  for (int64_t c = samples; c < corners * samples; c += samples) {
    for (int64_t k = 0; k < samples; ++k) sums[k] += numbers[c + k] * weight[c + k];
  }
}

// The weights of corners [2^P, K], times a number for each sample.
template <class A>
inline void scale_corners(const A* numbers, A scale, const A* weight, int64_t samples,
                          int64_t corners, A* scaled) {
  for (int64_t c = 0; c < corners * samples; c += samples) {
    for (int64_t k = 0; k < samples; ++k) scaled[c + k] = numbers[k] * scale * weight[c + k];
  }
}

inline float exponential(float x) { return expf(x); }
inline double exponential(double x) { return exp(x); }

template <class A> inline void softmax(A* scores, int64_t count) {
  A most = -INFINITY, sum = 0;
  for (int64_t k = 0; k < count; ++k) most = scores[k] > most ? scores[k] : most;
  for (int64_t k = 0; k < count; ++k) {
    scores[k] = exponential(scores[k] - most);
    sum += scores[k];
  }
  for (int64_t k = 0; k < count; ++k) scores[k] /= sum;
}

// One operator on features of type T, summed in type A.
template <class T> class Sums {
  using A = SumOf<T>;

 public:
  explicit Sums(const Call& call)
      : samples_(call.samples),
        groups_(call.groups),
        channels_(call.channels),
        threads_(call.threads),
        K(samples_.samples),
        corners_(int64_t{1} << samples_.axes),
        degree_(K * corners_),
        // Groups that share their samples are worked on together.
        together_{samples_.own > 1 ? 1 : groups_, channels_} {}

  void score(Table<T> x, Table<T> table, A scale, const A* bias, bool normalize, A* score) const {
    const Numbers<A> scores = numbers(score);
    for_nodes([&](const Edges<A>& edges, int64_t first, int64_t end) {
      const Node node(*this);
      for (int64_t n = first; n < end; ++n) {
        for (int64_t h = 0; h < samples_.own; ++h) {
          const int64_t c = h * channels_;
          edges.find(n, h, node.sender, node.weight);
          dot_rows<T>(x.row(n) + c, table.from(c), node.sender, degree_, together_, node.of_edge);
          for (int64_t g = 0; g < together_.count; ++g) {
            A* s = scores.at(n, h + g);
            sum_corners<A>(node.of_edge + g * degree_, node.weight, K, corners_, s);
            const A* b = bias ? bias + (s - score) : nullptr;
            for (int64_t k = 0; k < K; ++k) s[k] = s[k] * scale + (b ? b[k] : A(0));
            if (normalize) softmax(s, K);
          }
        }
      }
    });
  }

  void sum(const A* weight, Table<T> table, A* out) const {
    const Numbers<const A> weights = numbers(weight);
    for_nodes([&](const Edges<A>& edges, int64_t first, int64_t end) {
      const Node node(*this);
      for (int64_t n = first; n < end; ++n) {
        for (int64_t h = 0; h < samples_.own; ++h) {
          const int64_t c = h * channels_;
          edges.find(n, h, node.sender, node.weight);
          weigh_edges(weights, A(1), n, h, node);
          sum_rows<T>(node.of_edge, table.from(c), node.sender, degree_, together_, false,
                      out + n * groups_ * channels_ + c);
        }
      }
    });
  }

  void gradients(Table<T> x, const A* weight, A scale, Table<T> table, A* grad_weight,
                 void* grad_pos, A* grad_x) const {
    const Numbers<const A> weights = numbers(weight);
    for_nodes([&](const Edges<A>& edges, int64_t first, int64_t end) {
      const Node node(*this);
      const Buffer<A> grad(degree_);
      for (int64_t n = first; n < end; ++n) {
        for (int64_t h = 0; h < samples_.own; ++h) {
          const int64_t c = h * channels_;
          edges.find(n, h, node.sender, node.weight);
          if (grad_weight || grad_pos) {
            dot_rows<T>(x.row(n) + c, table.from(c), node.sender, degree_, together_, node.of_edge);
          }
          if (grad_pos) {
            __builtin_memset(grad, 0, degree_ * sizeof(A));
            for (int64_t g = 0; g < together_.count; ++g) {
              const A* w = weights.at(n, h + g);
              const A* dots = node.of_edge + g * degree_;
              for (int64_t e = 0; e < degree_; e += K) {
                for (int64_t k = 0; k < K; ++k) grad[e + k] += scale * w[k] * dots[e + k];
              }
            }
            edges.add_gradient(n, h, grad, grad_pos);
          }
          if (grad_weight) {
            for (int64_t g = 0; g < together_.count; ++g) {
              sum_corners<A>(node.of_edge + g * degree_, node.weight, K, corners_,
                             numbers(grad_weight).at(n, h + g));
            }
          }
          if (grad_x) {
            weigh_edges(weights, scale, n, h, node);
            sum_rows<T>(node.of_edge, table.from(c), node.sender, degree_, together_, false,
                        grad_x + n * groups_ * channels_ + c);
          }
        }
      }
    });
  }

  // What is added to a table: weighted nodes.
  struct Term {
    const A* weight;
    A scale;
    Table<T> x;
  };

  // Whatever the number of threads, what is added to a row is added in the order of nodes.
  void scatter(const Term* terms, int count, A* table) const {
    for_parts(samples_, [&](const Image& first, int64_t images) {
      if (samples_.own > 1) {
        parallel(images * groups_, threads_, [&](int64_t task) {
          scatter_group(image_of_part(first, task / groups_), task % groups_, terms, count, table);
        });
      } else {
        for (int64_t i = 0; i < images; ++i) {
          scatter_shared(image_of_part(first, i), terms, count, table);
        }
      }
    });
  }

 private:
  // What is computed of one node at a time.
  struct Node {
    const Buffer<int32_t> sender;
    const Buffer<A> weight;
    const Buffer<A> of_edge;  // [groups together, 2^P, K]

    explicit Node(const Sums& sums)
        : sender(sums.degree_),
          weight(sums.degree_),
          of_edge(sums.degree_ * sums.together_.count) {}
  };

  template <class B> Numbers<B> numbers(B* data) const { return {data, groups_, K}; }

  // Calls `run(edges, first, end)` for all nodes, some at a time.
  template <class Run> void for_nodes(const Run& run) const {
    for_parts(samples_, [&](const Image& first, int64_t images) {
      const int64_t steps = (first.receivers + kStep - 1) / kStep;
      parallel(images * steps, threads_, [&](int64_t task) {
        const Image image = image_of_part(first, task / steps);
        const int64_t start = task % steps * kStep;
        const Edges<A> edges(samples_, image);
        run(edges, image.first_receiver + start,
            image.first_receiver + least(start + kStep, image.receivers));
      });
    });
  }

  void weigh_edges(Numbers<const A> weights, A scale, int64_t n, int64_t h,
                   const Node& node) const {
    for (int64_t g = 0; g < together_.count; ++g) {
      scale_corners<A>(weights.at(n, h + g), scale, node.weight, K, corners_,
                       node.of_edge + g * degree_);
    }
  }

  // A group with samples of its own adds to rows of its own, which are short. If it adds to them
  // often, side by side in other memory: with the other groups' between them, rows share few lines
  // of the cache.
  void scatter_group(const Image& image, int64_t g, const Term* terms, int count, A* table) const {
    const Edges<A> edges(samples_, image);
    const Node node(*this);
    const int64_t c = g * channels_;
    if (image.senders == 0) return;
    const bool often = image.receivers * degree_ >= 4 * image.senders;
    const Buffer<A> memory(often ? image.senders * channels_ : 0);
    const int64_t stride = often ? channels_ : groups_ * channels_;
    A* table_g = table + image.first_sender * groups_ * channels_ + c;
    A* rows = often ? memory : table_g;
    for (int64_t i = 0; i < image.senders; ++i) {
      __builtin_memset(rows + i * stride, 0, channels_ * sizeof(A));
    }
    for (int64_t i = 0; i < image.receivers; ++i) {
      const int64_t n = image.first_receiver + i;
      edges.find(n, g, node.sender, node.weight);
      for (int t = 0; t < count; ++t) {
        weigh_edges(numbers(terms[t].weight), terms[t].scale, n, g, node);
        scatter_rows<T>(node.of_edge, terms[t].x.row(n) + c, rows - image.first_sender * stride,
                        stride, node.sender, degree_, channels_);
      }
    }
    for (int64_t i = 0; often && i < image.senders; ++i) {
      __builtin_memcpy(table_g + i * groups_ * channels_, rows + i * stride, channels_ * sizeof(A));
    }
  }

  // Along the transposed graph: long rows are read several times faster than they are added to.
  void scatter_shared(const Image& image, const Term* terms, int count, A* table) const {
    const Transposed<A> graph(samples_, image, threads_);
    parallel((image.senders + kStep - 1) / kStep, threads_, [&](int64_t task) {
      const int64_t first = task * kStep, end = least(first + kStep, image.senders);
      int64_t most = 0;
      for (int64_t s = first; s < end; ++s) most = graph.count(s) > most ? graph.count(s) : most;
      const Buffer<A> weight(most * groups_);
      for (int64_t s = first; s < end; ++s) {
        const int64_t start = graph.start(s), edges = graph.count(s);
        A* row = table + (image.first_sender + s) * groups_ * channels_;
        for (int t = 0; t < count; ++t) {
          for (int64_t i = 0; i < edges; ++i) {
            const A* of_sample = numbers(terms[t].weight).at(graph.receiver[start + i], 0) +
                                 graph.sample[start + i];
            const A factor = graph.weight[start + i] * terms[t].scale;
            for (int64_t g = 0; g < groups_; ++g) weight[g * edges + i] = factor * of_sample[g * K];
          }
          sum_rows<T>(weight, terms[t].x, graph.receiver + start, edges, together_, t > 0, row);
        }
      }
    });
  }

  const Samples& samples_;
  const int64_t groups_, channels_, threads_;
  const int64_t K, corners_, degree_;
  const Groups together_;
};

// Calls `run` with the sums of the call's type of features, and a null pointer of this type.
template <class Run> void with_sums(const Call& call, const Run& run) {
  if (call.dtype == kFloat) run(Sums<float>(call), static_cast<const float*>(nullptr));
  if (call.dtype == kDouble) run(Sums<double>(call), static_cast<const double*>(nullptr));
  if (call.dtype == kHalf) run(Sums<Half>(call), static_cast<const Half*>(nullptr));
  if (call.dtype == kBFloat16) run(Sums<BFloat16>(call), static_cast<const BFloat16*>(nullptr));
}

template <class T> Table<T> as_table(Features x, const T*) {
  return {static_cast<const T*>(x.data), x.stride};
}

extern const Kernels kernels;
const Kernels kernels = {
    [](const Call* call, Features x, Features table, double scale, const void* bias,
       int64_t softmax, void* score) {
      with_sums(*call, [&](const auto& sums, auto* type) {
        using A = SumOf<std::remove_const_t<std::remove_pointer_t<decltype(type)>>>;
        sums.score(as_table(x, type), as_table(table, type), static_cast<A>(scale),
                   static_cast<const A*>(bias), softmax != 0, static_cast<A*>(score));
      });
    },
    [](const Call* call, const void* weight, Features table, void* out) {
      with_sums(*call, [&](const auto& sums, auto* type) {
        using A = SumOf<std::remove_const_t<std::remove_pointer_t<decltype(type)>>>;
        sums.sum(static_cast<const A*>(weight), as_table(table, type), static_cast<A*>(out));
      });
    },
    [](const Call* call, Features x, const void* weight, double scale, Features table,
       void* grad_weight, void* grad_pos, void* grad_x) {
      with_sums(*call, [&](const auto& sums, auto* type) {
        using A = SumOf<std::remove_const_t<std::remove_pointer_t<decltype(type)>>>;
        sums.gradients(as_table(x, type), static_cast<const A*>(weight), static_cast<A>(scale),
                       as_table(table, type), static_cast<A*>(grad_weight), grad_pos,
                       static_cast<A*>(grad_x));
      });
    },
    [](const Call* call, const void* weight, double scale, Features x, const void* other_weight,
       Features other, void* table) {
      with_sums(*call, [&](const auto& sums, auto* type) {
        using A = SumOf<std::remove_const_t<std::remove_pointer_t<decltype(type)>>>;
        using Term = typename std::remove_const_t<std::remove_reference_t<decltype(sums)>>::Term;
        const Term terms[] = {
            {static_cast<const A*>(weight), static_cast<A>(scale), as_table(x, type)},
            {static_cast<const A*>(other_weight), A(1), as_table(other, type)},
        };
        sums.scatter(terms, other_weight ? 2 : 1, static_cast<A*>(table));
      });
    },
};

}  // namespace VARIANT
}  // namespace dyngraph
