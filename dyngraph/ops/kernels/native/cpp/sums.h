// The kernels: each a pass over nodes, or over senders, and one table.

#pragma once

#include "rows.h"
#include "transposed.h"

namespace dyngraph {
namespace VARIANT {

// Nodes, or senders, of a task.
constexpr int64_t kStep = 64;

// Tasks of a thread, at least, where each copies rows.
constexpr int64_t kTasks = 2;

// How many nodes ahead the memory is asked for what belongs to them.
constexpr int64_t kAhead = 4;

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
  for (int64_t k = 0; k < samples; k += Lanes<A>::count) {
    VectorOf<A> sum = load(numbers + k) * load(weight + k);
    for (int64_t c = 1; c < corners; ++c) {
      sum += load(numbers + c * samples + k) * load(weight + c * samples + k);
    }
    store_of(sums + k, sum, samples - k);
  }
}

// Calls `run` with the number of corners, as a constant.
template <class Run> inline void with_corners(int64_t corners, const Run& run) {
  if (corners == 1) run(std::integral_constant<int, 1>());
  if (corners == 2) run(std::integral_constant<int, 2>());
  if (corners == 4) run(std::integral_constant<int, 4>());
  if (corners == 8) run(std::integral_constant<int, 8>());
}

// Corners [2^P, K] of groups [G, 2^P, K], each times a number for each of its samples [G, K], added
// up. All have room behind them for a vector.
template <class A>
inline void scale_corners(const A* numbers, A scale, const A* weight, int64_t groups,
                          int64_t samples, int64_t corners, A* scaled) {
  constexpr int lanes = Lanes<A>::count;
  with_corners(corners, [&](auto constant) {
    constexpr int count = constant.value;
    // The last samples first: what is written past them belongs to others, which are written later.
    for (int64_t k = (samples - 1) / lanes * lanes; k >= 0 && samples > 0; k -= lanes) {
      VectorOf<A> sums[count] = {};
      for (int64_t g = 0; g < groups; ++g) {
        const VectorOf<A> factor = load(numbers + g * samples + k) * scale;
        UNROLL
        for (int c = 0; c < count; ++c) {
          sums[c] += factor * load(weight + (g * count + c) * samples + k);
        }
      }
      UNROLL
      for (int c = 0; c < count; ++c) store(scaled + c * samples + k, sums[c]);
    }
  });
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

  void score(Table<T> x, Table<T> table, A scale, const A* bias, bool normalize, A* score,
             A* products) const {
    const Numbers<A> scores = numbers(score);
    for_nodes(table, [&](const Edges<A>&, const Node& node, const Table<T>& rows) {
      const T* x_n = x.row(node.n) + node.h * channels_;
      ahead(x_n + kAhead * x.stride, channels_);
      ahead(scores.at(node.n + kAhead, node.h), K);
      dot_rows<T>(x_n, rows, node.sender, degree_, together_, node.of_edge);
      if (products) {
        __builtin_memcpy(products + first_edge(node), node.of_edge, bytes_of_edges());
      }
      for (int64_t g = 0; g < together_.count; ++g) {
        A* s = scores.at(node.n, node.h + g);
        sum_corners<A>(node.of_edge + g * degree_, node.weight, K, corners_, s);
        const A* b = bias ? bias + (s - score) : nullptr;
        for (int64_t k = 0; k < K; ++k) s[k] = s[k] * scale + (b ? b[k] : A(0));
        if (normalize) softmax(s, K);
      }
    });
  }

  void sum(const A* weight, Table<T> table, A* out) const {
    const Numbers<const A> weights = numbers(weight);
    for_nodes(table, [&](const Edges<A>&, const Node& node, const Table<T>& rows) {
      A* out_n = out + (node.n * groups_ + node.h) * channels_;
      ahead(out_n + kAhead * groups_ * channels_, channels_);
      weigh_edges(weights, A(1), node);
      sum_rows<T>(node.of_edge, rows, node.sender, degree_, together_, false, out_n);
    });
  }

  void gradients(Table<T> x, const A* weight, A scale, Table<T> table, const A* products,
                 A* grad_weight, void* grad_pos, A* grad_x) const {
    const Numbers<const A> weights = numbers(weight);
    const Numbers<A> grad_weights = numbers(grad_weight);
    for_nodes(table, [&](const Edges<A>& edges, const Node& node, const Table<T>& rows) {
      const T* x_n = x.row(node.n) + node.h * channels_;
      ahead(x_n + kAhead * x.stride, channels_);
      if (products) {
        __builtin_memcpy(node.of_edge, products + first_edge(node), bytes_of_edges());
      } else if (grad_weight || grad_pos) {
        dot_rows<T>(x_n, rows, node.sender, degree_, together_, node.of_edge);
      }
      if (grad_pos) {
        scale_corners<A>(numbers_of(node, weights), scale, node.of_edge, together_.count, K,
                         corners_, node.grad);
        ahead(static_cast<char*>(grad_pos) + edges.start(node.n + kAhead, node.h), edges.bytes());
        edges.add_gradient(node.n, node.h, node.grad, grad_pos);
      }
      if (grad_weight) {
        ahead(grad_weights.at(node.n + kAhead, node.h), K);
        for (int64_t g = 0; g < together_.count; ++g) {
          sum_corners<A>(node.of_edge + g * degree_, node.weight, K, corners_,
                         grad_weights.at(node.n, node.h + g));
        }
      }
      if (grad_x) {
        A* grad_x_n = grad_x + (node.n * groups_ + node.h) * channels_;
        ahead(grad_x_n + kAhead * groups_ * channels_, channels_);
        weigh_edges(weights, scale, node);
        sum_rows<T>(node.of_edge, rows, node.sender, degree_, together_, false, grad_x_n);
      }
    });
  }

  // What is added to a table: weighted nodes.
  struct Term {
    const A* weight;
    A scale;
    Table<T> x;
    A* table;
  };

  // Whatever the number of threads, what is added to a row is added in the order of nodes.
  void scatter(const Term* terms, int count) const {
    const bool apart = count > 1 && terms[1].table != terms[0].table;
    for_parts(samples_, [&](const Image& first, int64_t images) {
      if (first.senders == 0) return;
      if (samples_.own > 1) {
        parallel(images * groups_, threads_, [&](int64_t task) {
          const Image image = image_of_part(first, task / groups_);
          scatter_group(image, task % groups_, terms, apart ? 1 : count);
          if (apart) scatter_group(image, task % groups_, terms + 1, 1);
        });
      } else {
        for (int64_t i = 0; i < images; ++i) {
          scatter_shared(image_of_part(first, i), terms, count, apart);
        }
      }
    });
  }

 private:
  // What is computed of one node, and of a group with samples of its own, at a time.
  struct Node {
    int64_t n, h;
    const Buffer<int32_t> sender;
    const Buffer<A> weight;
    const Buffer<A> of_edge;  // [groups together, 2^P, K]
    const Buffer<A> numbers;  // [groups together, K]
    const Buffer<A> grad;     // [2^P, K]

    explicit Node(const Sums& sums)
        : sender(sums.degree_),
          weight(sums.degree_),
          of_edge(sums.degree_ * sums.together_.count),
          numbers(sums.K * sums.together_.count),
          grad(sums.degree_) {}

    void find(const Edges<A>& edges, int64_t node, int64_t group) {
      n = node;
      h = group;
      edges.find(n, h, sender, weight);
    }
  };

  // Whether a group's short rows are used so often that they are brought side by side: with the
  // other groups' between them, they share few lines of the cache.
  bool copies(const Image& image) const {
    return samples_.own > 1 && image.senders > 0 &&
           image.receivers * degree_ >= 4 * image.senders;
  }

  // The rows of an image, from a group's channels on.
  class GroupRows {
   public:
    GroupRows(const Sums& sums, const Image& image, int64_t h, const Table<T>& table)
        : table_(table.from(h * sums.channels_)),
          memory_(sums.copies(image) ? image.senders * sums.channels_ : 0) {
      if (!sums.copies(image)) return;
      for (int64_t i = 0; i < image.senders; ++i) {
        __builtin_memcpy(memory_ + i * sums.channels_, table_.row(image.first_sender + i),
                         sums.channels_ * sizeof(T));
      }
      table_ = {memory_ - image.first_sender * sums.channels_, sums.channels_};
    }

    const Table<T>& table() const { return table_; }

   private:
    Table<T> table_;
    const Buffer<T> memory_;
  };

  template <class B> Numbers<B> numbers(B* data) const { return {data, groups_, K}; }

  // Where a node's edges start among those of all nodes and groups, and the bytes of its numbers.
  int64_t first_edge(const Node& node) const { return (node.n * groups_ + node.h) * degree_; }
  int64_t bytes_of_edges() const { return together_.count * degree_ * sizeof(A); }

  // Calls `run(edges, node)` for the nodes from `first` to `end` of an image, and a group h.
  template <class Run>
  void for_nodes_of(const Image& image, int64_t h, int64_t first, int64_t end,
                    const Run& run) const {
    const Edges<A> edges(samples_, image);
    Node nodes[] = {Node(*this), Node(*this)};
    if (first < end) nodes[first % 2].find(edges, first, h);
    for (int64_t n = first; n < end; ++n) {
      // The next node's corners are found while this one's sums wait for the memory.
      if (n + 1 < end) nodes[(n + 1) % 2].find(edges, n + 1, h);
      ahead(static_cast<const char*>(samples_.pos) + edges.start(n + kAhead, h), edges.bytes());
      run(edges, nodes[n % 2]);
    }
  }

  // Calls `run(edges, node, rows)` for all nodes, and all groups with samples of their own, with
  // the rows of a table, from the group's channels on.
  template <class Run> void for_nodes(const Table<T>& table, const Run& run) const {
    for_parts(samples_, [&](const Image& first, int64_t images) {
      // A group's rows are copied by each task.
      const int64_t parts = images * samples_.own;
      const int64_t tasks = samples_.own > 1 ? (kTasks * threads_ + parts - 1) / parts : INT64_MAX;
      const int64_t most = (first.receivers + kStep - 1) / kStep;
      const int64_t steps = tasks < most ? tasks : most;
      parallel(parts * steps, threads_, [&](int64_t task) {
        const Image image = image_of_part(first, task / steps / samples_.own);
        const int64_t h = task / steps % samples_.own, step = task % steps;
        const GroupRows rows(*this, image, h, table);
        const auto run_on_rows = [&](const Edges<A>& edges, const Node& node) {
          run(edges, node, rows.table());
        };
        for_nodes_of(image, h, image.first_receiver + image.receivers * step / steps,
                     image.first_receiver + image.receivers * (step + 1) / steps, run_on_rows);
      });
    });
  }

  // Asks the memory for what belongs to a later node. Where groups have samples of their own, each
  // goes through all nodes, and reads so little of each that the processor doesn't do so itself.
  template <class X>
  __attribute__((always_inline)) void ahead(const X* from, int64_t count) const {
    if (samples_.own > 1) prefetch(from, count);
  }

  // A node's numbers [groups together, K], with room behind for a vector.
  const A* numbers_of(const Node& node, Numbers<const A> all) const {
    ahead(all.at(node.n + kAhead, node.h), K);
    // Of no samples there is no memory either.
    if (K > 0) {
      __builtin_memcpy(node.numbers, all.at(node.n, node.h), together_.count * K * sizeof(A));
    }
    return node.numbers;
  }

  void weigh_edges(Numbers<const A> weights, A scale, const Node& node) const {
    const A* of_node = numbers_of(node, weights);
    for (int64_t g = 0; g < together_.count; ++g) {
      scale_corners<A>(of_node + g * K, scale, node.weight, 1, K, corners_,
                       node.of_edge + g * degree_);
    }
  }

  // A group with samples of its own adds to rows of its own, which are short.
  void scatter_group(const Image& image, int64_t h, const Term* terms, int count) const {
    const bool copied = copies(image);
    const Buffer<A> memory(copied ? image.senders * channels_ : 0);
    const int64_t stride = copied ? channels_ : groups_ * channels_;
    A* table_h = terms[0].table + image.first_sender * groups_ * channels_ + h * channels_;
    A* rows = copied ? memory : table_h;
    for (int64_t i = 0; i < image.senders; ++i) {
      __builtin_memset(rows + i * stride, 0, channels_ * sizeof(A));
    }
    const auto add = [&](const Edges<A>&, const Node& node) {
      for (int t = 0; t < count; ++t) {
        const T* x_n = terms[t].x.row(node.n) + h * channels_;
        ahead(x_n + kAhead * terms[t].x.stride, channels_);
        weigh_edges(numbers(terms[t].weight), terms[t].scale, node);
        scatter_rows<T>(node.of_edge, x_n, rows - image.first_sender * stride, stride, node.sender,
                        degree_, channels_);
      }
    };
    for_nodes_of(image, h, image.first_receiver, image.first_receiver + image.receivers, add);
    for (int64_t i = 0; copied && i < image.senders; ++i) {
      __builtin_memcpy(table_h + i * groups_ * channels_, rows + i * stride, channels_ * sizeof(A));
    }
  }

  // Along the transposed graph: long rows are read several times faster than they are added to.
  void scatter_shared(const Image& image, const Term* terms, int count, bool apart) const {
    const Transposed<A> graph(samples_, image, threads_);
    // One term after the other, so that the cache holds the rows of one.
    for (int t = 0; t < count; ++t) {
      const Term& term = terms[t];
      const Numbers<const A> weights = numbers(term.weight);
      parallel((image.senders + kStep - 1) / kStep, threads_, [&](int64_t task) {
        const int64_t first = task * kStep, end = least(first + kStep, image.senders);
        int64_t most = 0;
        for (int64_t s = first; s < end; ++s) most = graph.count(s) > most ? graph.count(s) : most;
        const Buffer<A> weight(most * groups_);
        for (int64_t s = first; s < end; ++s) {
          const int64_t start = graph.start(s), edges = graph.count(s);
          for (int64_t i = 0; i < edges; ++i) {
            const A* of_sample = weights.at(graph.receiver[start + i], 0) + graph.sample[start + i];
            const A factor = graph.weight[start + i] * term.scale;
            for (int64_t g = 0; g < groups_; ++g) weight[g * edges + i] = factor * of_sample[g * K];
          }
          sum_rows<T>(weight, term.x, graph.receiver + start, edges, together_, t > 0 && !apart,
                      term.table + (image.first_sender + s) * groups_ * channels_);
        }
      });
    }
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
       int64_t softmax, void* score, void* products) {
      with_sums(*call, [&](const auto& sums, auto* type) {
        using A = SumOf<std::remove_const_t<std::remove_pointer_t<decltype(type)>>>;
        sums.score(as_table(x, type), as_table(table, type), static_cast<A>(scale),
                   static_cast<const A*>(bias), softmax != 0, static_cast<A*>(score),
                   static_cast<A*>(products));
      });
    },
    [](const Call* call, const void* weight, Features table, void* out) {
      with_sums(*call, [&](const auto& sums, auto* type) {
        using A = SumOf<std::remove_const_t<std::remove_pointer_t<decltype(type)>>>;
        sums.sum(static_cast<const A*>(weight), as_table(table, type), static_cast<A*>(out));
      });
    },
    [](const Call* call, Features x, const void* weight, double scale, Features table,
       const void* products, void* grad_weight, void* grad_pos, void* grad_x) {
      with_sums(*call, [&](const auto& sums, auto* type) {
        using A = SumOf<std::remove_const_t<std::remove_pointer_t<decltype(type)>>>;
        sums.gradients(as_table(x, type), static_cast<const A*>(weight), static_cast<A>(scale),
                       as_table(table, type), static_cast<const A*>(products),
                       static_cast<A*>(grad_weight), grad_pos, static_cast<A*>(grad_x));
      });
    },
    [](const Call* call, const void* weight, double scale, Features x, void* table,
       const void* other_weight, Features other, void* other_table) {
      with_sums(*call, [&](const auto& sums, auto* type) {
        using A = SumOf<std::remove_const_t<std::remove_pointer_t<decltype(type)>>>;
        using Term = typename std::remove_const_t<std::remove_reference_t<decltype(sums)>>::Term;
        const Term terms[] = {
            {static_cast<const A*>(weight), static_cast<A>(scale), as_table(x, type),
             static_cast<A*>(table)},
            {static_cast<const A*>(other_weight), A(1), as_table(other, type),
             static_cast<A*>(other_table)},
        };
        sums.scatter(terms, other_weight ? 2 : 1);
      });
    },
};

}  // namespace VARIANT
}  // namespace dyngraph
