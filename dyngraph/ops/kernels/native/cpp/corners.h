// The corners of samples, as many at a time as a vector has lanes, and the gradient of positions.

#pragma once

#include "simd.h"

namespace dyngraph {
namespace VARIANT {

// The maps that the samples of a node are on, sample after sample: several where there are levels.
// Arrays end with as many entries more as a vector has lanes.
template <int P, class Q> struct MapOfSample {
  const Q* last[P];          // the last node along each axis
  const int32_t* length[P];
  const int32_t* first;      // the map's first sender
  const Q* exists;           // 0 where the map has no node, else 1
};

template <class Q> using Index = typename Lanes<Q>::Index;

template <class V, class M> inline V choose(const M& condition, const V& yes, const V& no) {
  return condition ? yes : no;
}

// The lower and the upper corners of samples along one axis.
template <class Q> struct AxisCorners {
  Index<Q> node[2];
  VectorOf<Q> weight[2];
  VectorOf<Q> inside[2];
};

template <class Q>
inline AxisCorners<Q> axis_corners(VectorOf<Q> p, VectorOf<Q> last, bool border) {
  using V = VectorOf<Q>;
  const V zero = {}, one = splat<Q>(1);
  // NaN where p is not finite, so that both weights are.
  const V nan = p - p;
  // A far position is as good as a near one outside, and its integer cast is defined.
  const V least = border ? zero : -2 * one, most = border ? last : last + 2 * one;
  p = choose(p > least, p, least);
  p = choose(p < most, p, most);
  V lower = __builtin_convertvector(__builtin_convertvector(p, Index<Q>), V);
  lower = choose(lower > p, lower - one, lower);
  const V upper = lower + one, fraction = p - lower + nan;
  AxisCorners<Q> corners;
  const V nodes[2] = {lower, upper}, weights[2] = {one - fraction, fraction};
  UNROLL
  for (int side = 0; side < 2; ++side) {
    V node = choose(nodes[side] > zero, nodes[side], zero);
    node = choose(node < last, node, last);
    corners.node[side] = __builtin_convertvector(node, Index<Q>);
    corners.inside[side] = choose(node == nodes[side], one, zero);
    // A product, which keeps NaN.
    corners.weight[side] = weights[side] * corners.inside[side];
  }
  return corners;
}

// The coordinates of samples along each axis, as many as a vector has lanes; where fewer are left in
// memory, those of node 0.
template <int P, class Q>
inline void load_coordinates(const Q* pos, int64_t left, VectorOf<Q>* coordinates) {
  constexpr int lanes = Lanes<Q>::count;
  Q padded[lanes * P];
  if (left < lanes) {
    __builtin_memset(padded, 0, sizeof padded);
    __builtin_memcpy(padded, pos, left * P * sizeof(Q));
    pos = padded;
  }
  UNROLL
  for (int a = 0; a < P; ++a) {
    UNROLL
    for (int i = 0; i < lanes; ++i) coordinates[a][i] = pos[i * P + a];
  }
}

// As many numbers as a vector has lanes, converted.
template <class V, class From> inline V load_as(const From* from, int lanes) {
  V vector;
  UNROLL
  for (int i = 0; i < lanes; ++i) vector[i] = from[i];
  return vector;
}

template <class To, class V> inline void store_as(To* to, const V& vector, int lanes) {
  UNROLL
  for (int i = 0; i < lanes; ++i) to[i] = static_cast<To>(vector[i]);
}

// Sender and weight of each corner of a node's samples, [2^P, K], with room behind for a vector.
// Of positions, `left` are in memory, these samples' and those of later nodes.
template <int P, class Q, class A>
inline void find_corners(const Q* pos, int64_t left, int64_t samples,
                         const MapOfSample<P, Q>& maps, bool border, int32_t* index, A* weight) {
  constexpr int lanes = Lanes<Q>::count;
  // The last samples first: what is written past them belongs to others, which are written later.
  for (int64_t k = (samples - 1) / lanes * lanes; k >= 0 && samples > 0; k -= lanes) {
    VectorOf<Q> coordinates[P] = {};
    load_coordinates<P>(pos + k * P, left - k, coordinates);
    AxisCorners<Q> axes[P];
    Index<Q> length[P];
    UNROLL
    for (int a = 0; a < P; ++a) {
      axes[a] = axis_corners<Q>(coordinates[a], load(maps.last[a] + k), border);
      __builtin_memcpy(&length[a], maps.length[a] + k, sizeof length[a]);
    }
    Index<Q> first;
    __builtin_memcpy(&first, maps.first + k, sizeof first);
    const VectorOf<Q> exists = load(maps.exists + k);
    UNROLL
    for (int c = 0; c < 1 << P; ++c) {
      Index<Q> node = axes[0].node[c >> (P - 1)];
      VectorOf<Q> product = axes[0].weight[c >> (P - 1)];
      UNROLL
      for (int a = 1; a < P; ++a) {
        const int side = c >> (P - 1 - a) & 1;
        node = node * length[a] + axes[a].node[side];
        product *= axes[a].weight[side];
      }
      product = choose(exists > 0, product, VectorOf<Q>{});
      store_as(index + c * samples + k, first + node, lanes);
      store_as(weight + c * samples + k, product, lanes);
    }
  }
}

// Adds to the gradient [K, P] of positions, from that of the weights of their corners [2^P, K],
// with room behind for a vector.
template <int P, class Q, class A>
inline void add_pos_gradient(const A* grad_weight, const Q* pos, int64_t left, int64_t samples,
                             const MapOfSample<P, Q>& maps, bool border, Q* grad_pos) {
  constexpr int lanes = Lanes<Q>::count;
  using V = VectorOf<Q>;
  for (int64_t k = 0; k < samples; k += lanes) {
    V p[P] = {}, last[P], grads[1 << P];
    load_coordinates<P>(pos + k * P, left - k, p);
    AxisCorners<Q> axes[P];
    UNROLL
    for (int a = 0; a < P; ++a) {
      last[a] = load(maps.last[a] + k);
      axes[a] = axis_corners<Q>(p[a], last[a], border);
    }
    const V exists = load(maps.exists + k);
    UNROLL
    for (int c = 0; c < 1 << P; ++c) {
      grads[c] = load_as<V>(grad_weight + c * samples + k, lanes);
    }
    V sums[P];
    UNROLL
    for (int a = 0; a < P; ++a) {
      V sum = {};
      UNROLL
      for (int c = 0; c < 1 << P; ++c) {
        V slope = grads[c];
        UNROLL
        for (int b = 0; b < P; ++b) {
          const int side = c >> (P - 1 - b) & 1;
          const V inside = axes[b].inside[side];
          slope *= a != b ? axes[b].weight[side] : side ? inside : -inside;
        }
        sum += slope;
      }
      sum = choose(exists > 0, sum, V{});
      if (border) sum = choose(p[a] > 0, choose(p[a] < last[a], sum, V{}), V{});
      sums[a] = sum;
    }
    // Point after point.
    Q grad[lanes * P];
    UNROLL
    for (int i = 0; i < lanes; ++i) {
      UNROLL
      for (int a = 0; a < P; ++a) grad[i * P + a] = sums[a][i];
    }
    UNROLL
    for (int i = 0; i < lanes * P; i += lanes) {
      Q* to = grad_pos + k * P + i;
      const int64_t rest = (samples - k) * P - i;
      if (rest >= lanes) store(to, load(to) + load(grad + i));
      for (int64_t j = 0; rest < lanes && j < rest; ++j) to[j] += grad[i + j];
    }
  }
}

}  // namespace VARIANT
}  // namespace dyngraph
