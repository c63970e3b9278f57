// The sums over the rows of a table that one node listens to.

#pragma once

#include "simd.h"

namespace dyngraph {
namespace VARIANT {

// A table of features, row after row.
template <class T> struct Table {
  const T* rows;
  int64_t stride;

  const T* row(int64_t index) const { return rows + index * stride; }
  // From a channel on.
  Table from(int64_t channel) const { return {rows + channel, stride}; }
};

// Contiguous groups of channels.
struct Groups {
  int64_t count, channels;  // channels of one group
};

// Calls `run` with how many rows it is for, as a constant, and the first of them.
template <class Run> inline void for_some_rows(int64_t count, Run&& run) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) run(std::integral_constant<int, 8>(), i);
  if (i + 4 <= count) {
    run(std::integral_constant<int, 4>(), i);
    i += 4;
  }
  for (; i < count; ++i) run(std::integral_constant<int, 1>(), i);
}

template <int count, class T>
inline void dot_some(const T* x, const Table<T>& table, const int32_t* index, int64_t channels,
                     SumOf<T>* dots) {
  using A = SumOf<T>;
  constexpr int lanes = Lanes<A>::count;
  const T* rows[count];
  VectorOf<A> sums[count];
  UNROLL
  for (int i = 0; i < count; ++i) {
    rows[i] = table.row(index[i]);
    sums[i] = VectorOf<A>{};
  }
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) {
    const auto features = load(x + c);
    UNROLL
    for (int i = 0; i < count; ++i) sums[i] += features * load(rows[i] + c);
  }
  if (c < channels) {
    const int rest = channels - c;
    const auto features = load(x + c, rest);
    UNROLL
    for (int i = 0; i < count; ++i) sums[i] += features * load(rows[i] + c, rest);
  }
  sums_of_lanes<count, A>(sums, dots);
}

// The dot products [G, count] of a node with its rows, of each of the groups of channels.
template <class T>
inline void dot_rows(const T* x, const Table<T>& table, const int32_t* index, int64_t count,
                     Groups groups, SumOf<T>* dots) {
  const int64_t channels = groups.channels;
  // Eight sums at a time hide the time that one addition takes, and eight rows, read from end to
  // end, what the memory takes.
  for_some_rows(count, [&](auto some, int64_t i) {
    for (int64_t g = 0; g < groups.count; ++g) {
      const int64_t c = g * channels;
      dot_some<some.value>(x + c, table.from(c), index + i, channels, dots + g * count + i);
    }
  });
}

template <int count, class T>
inline void sum_some(const SumOf<T>* weight, const Table<T>& table, const int32_t* index,
                     int64_t channels, bool add, SumOf<T>* out) {
  using A = SumOf<T>;
  constexpr int lanes = Lanes<A>::count;
  const T* rows[count];
  VectorOf<A> factors[count];
  UNROLL
  for (int i = 0; i < count; ++i) {
    rows[i] = table.row(index[i]);
    factors[i] = splat(weight[i]);
  }
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) {
    VectorOf<A> sum = add ? load(out + c) : VectorOf<A>{};
    UNROLL
    for (int i = 0; i < count; ++i) sum += factors[i] * load(rows[i] + c);
    store(out + c, sum);
  }
  if (c < channels) {
    const int rest = channels - c;
    VectorOf<A> sum = add ? load(out + c, rest) : VectorOf<A>{};
    UNROLL
    for (int i = 0; i < count; ++i) sum += factors[i] * load(rows[i] + c, rest);
    store(out + c, sum, rest);
  }
}

// The weighted sum of a node's rows, by weights [G, count] of groups of channels, or that added.
template <class T>
inline void sum_rows(const SumOf<T>* weight, const Table<T>& table, const int32_t* index,
                     int64_t count, Groups groups, bool add, SumOf<T>* out) {
  const int64_t channels = groups.channels;
  if (count == 0 && !add) __builtin_memset(out, 0, groups.count * channels * sizeof *out);
  for_some_rows(count, [&](auto some, int64_t i) {
    for (int64_t g = 0; g < groups.count; ++g) {
      const int64_t c = g * channels;
      sum_some<some.value>(weight + g * count + i, table.from(c), index + i, channels,
                           add || i > 0, out + c);
    }
  });
}

template <int vectors, class T>
inline void scatter_some(const SumOf<T>* weight, const T* x, SumOf<T>* table, int64_t stride,
                         const int32_t* index, int64_t count) {
  using A = SumOf<T>;
  constexpr int lanes = Lanes<A>::count;
  VectorOf<A> features[vectors];
  UNROLL
  for (int v = 0; v < vectors; ++v) features[v] = load(x + v * lanes);
  for (int64_t i = 0; i < count; ++i) {
    A* row = table + index[i] * stride;
    const auto factor = splat(weight[i]);
    UNROLL
    for (int v = 0; v < vectors; ++v) {
      store(row + v * lanes, load(row + v * lanes) + factor * features[v]);
    }
  }
}

// Adds a node, weighted, to its rows.
template <class T>
inline void scatter_rows(const SumOf<T>* weight, const T* x, SumOf<T>* table, int64_t stride,
                         const int32_t* index, int64_t count, int64_t channels) {
  using A = SumOf<T>;
  constexpr int lanes = Lanes<A>::count;
  int64_t c = 0;
  for (; c + 4 * lanes <= channels; c += 4 * lanes) {
    scatter_some<4>(weight, x + c, table + c, stride, index, count);
  }
  for (; c + lanes <= channels; c += lanes) {
    scatter_some<1>(weight, x + c, table + c, stride, index, count);
  }
  if (c < channels) {
    const int rest = channels - c;
    const auto features = load(x + c, rest);
    for (int64_t i = 0; i < count; ++i) {
      A* row = table + index[i] * stride + c;
      store(row, load(row, rest) + splat(weight[i]) * features, rest);
    }
  }
}

}  // namespace VARIANT
}  // namespace dyngraph
