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

// A few vectors of the sum of all rows, in registers.
template <int vectors, class T>
inline void sum_vectors(const SumOf<T>* weight, const Table<T>& table, const int32_t* index,
                        int64_t count, bool add, SumOf<T>* out) {
  using A = SumOf<T>;
  constexpr int lanes = Lanes<A>::count;
  // Of the rows in even places and in odd ones, so that additions wait for half as many.
  VectorOf<A> sums[2][vectors] = {};
  for (int64_t i = 0; i < count; i += 2) {
    UNROLL
    for (int j = 0; j < 2; ++j) {
      if (i + j == count) break;
      const T* row = table.row(index[i + j]);
      const auto factor = splat(weight[i + j]);
      UNROLL
      for (int v = 0; v < vectors; ++v) sums[j][v] += factor * load(row + v * lanes);
    }
  }
  UNROLL
  for (int v = 0; v < vectors; ++v) {
    VectorOf<A> sum = sums[0][v] + sums[1][v];
    if (add) sum += load(out + v * lanes);
    store(out + v * lanes, sum);
  }
}

// The weighted sum of short rows.
template <class T>
inline void sum_short(const SumOf<T>* weight, const Table<T>& table, const int32_t* index,
                      int64_t count, int64_t channels, bool add, SumOf<T>* out) {
  constexpr int lanes = Lanes<SumOf<T>>::count;
  int64_t c = 0;
  const auto sum = [&](auto vectors) {
    sum_vectors<vectors.value>(weight, table.from(c), index, count, add, out + c);
    c += vectors.value * lanes;
  };
  while (c + 4 * lanes <= channels) sum(std::integral_constant<int, 4>());
  if (c + 2 * lanes <= channels) sum(std::integral_constant<int, 2>());
  if (c + lanes <= channels) sum(std::integral_constant<int, 1>());
  if (const int rest = channels - c) {
    auto total = add ? load(out + c, rest) : VectorOf<SumOf<T>>{};
    for (int64_t i = 0; i < count; ++i) {
      total += splat(weight[i]) * load(table.row(index[i]) + c, rest);
    }
    store(out + c, total, rest);
  }
}

// The weighted sum of a node's rows, by weights [G, count] of groups of channels, or that added.
template <class T>
inline void sum_rows(const SumOf<T>* weight, const Table<T>& table, const int32_t* index,
                     int64_t count, Groups groups, bool add, SumOf<T>* out) {
  const int64_t channels = groups.channels;
  if (count == 0 && !add) __builtin_memset(out, 0, groups.count * channels * sizeof *out);
  if (groups.count == 1 && channels <= 8 * Lanes<SumOf<T>>::count) {
    return sum_short(weight, table, index, count, channels, add, out);
  }
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
  if (c + 2 * lanes <= channels) {
    scatter_some<2>(weight, x + c, table + c, stride, index, count);
    c += 2 * lanes;
  }
  if (c + lanes <= channels) {
    scatter_some<1>(weight, x + c, table + c, stride, index, count);
    c += lanes;
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
