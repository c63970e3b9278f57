// Vectors of the width of this variant, and features of four types as the sums read them.

#pragma once

#include "library.h"

// Loops over registers, whose number is known.
#define UNROLL _Pragma("GCC unroll 16")

namespace dyngraph {
namespace VARIANT {

// Bytes of a line of the cache.
constexpr int64_t kLine = 64;

// Asks the memory for what will soon be read or written. Inlined always: GCC takes a function that
// does nothing else for one that does nothing.
template <class X>
__attribute__((always_inline)) inline void prefetch(const X* from, int64_t count) {
  const char* bytes = reinterpret_cast<const char*>(from);
  for (int64_t at = 0; at < count * int64_t{sizeof(X)}; at += kLine) __builtin_prefetch(bytes + at);
}

// The type of sums over features of a type.
template <class T> struct Sum { using type = float; };
template <> struct Sum<double> { using type = double; };
template <class T> using SumOf = typename Sum<T>::type;

template <class A> struct Lanes;
template <> struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(VECTOR_BYTES)));
  typedef int Index __attribute__((vector_size(VECTOR_BYTES)));
  typedef unsigned Bits __attribute__((vector_size(VECTOR_BYTES)));
  typedef unsigned short Halves __attribute__((vector_size(VECTOR_BYTES / 2)));
  static constexpr int count = VECTOR_BYTES / sizeof(float);
};
template <> struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(VECTOR_BYTES)));
  typedef int Index __attribute__((vector_size(VECTOR_BYTES / 2)));
  static constexpr int count = VECTOR_BYTES / sizeof(double);
};
template <class A> using VectorOf = typename Lanes<A>::Vector;

template <class To, class From> inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "the same size");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

inline VectorOf<float> widen(BFloat16, Lanes<float>::Halves halves) {
  return bit_cast<VectorOf<float>>(__builtin_convertvector(halves, Lanes<float>::Bits) << 16);
}

inline VectorOf<float> widen(Half, Lanes<float>::Halves halves) {
  const auto bits = __builtin_convertvector(halves, Lanes<float>::Bits);
  const auto magnitude = bits & 0x7fffu;
  // A product sets the exponent right, of subnormal numbers too; those of infinities are all ones.
  const auto scaled = bit_cast<VectorOf<float>>(magnitude << 13) * 0x1p112f;
  const auto special = (magnitude >= 0x7c00u) & 0x7f800000u;
  return bit_cast<VectorOf<float>>(bit_cast<Lanes<float>::Bits>(scaled) | special |
                                   ((bits & 0x8000u) << 16));
}

// As many features as a vector has lanes.
template <class T> inline VectorOf<SumOf<T>> load(const T* from) {
  if constexpr (sizeof(T) == 2) {
    Lanes<float>::Halves halves;
    __builtin_memcpy(&halves, from, sizeof halves);
    return widen(T(), halves);
  } else {
    VectorOf<T> vector;
    __builtin_memcpy(&vector, from, sizeof vector);
    return vector;
  }
}

// The first `count` features, and zeros.
template <class T>
__attribute__((noinline)) VectorOf<SumOf<T>> load(const T* from, int count) {
  T padded[Lanes<SumOf<T>>::count] = {};
  __builtin_memcpy(padded, from, count * sizeof(T));
  return load(padded);
}

template <class A> inline void store(A* to, const VectorOf<A>& vector) {
  __builtin_memcpy(to, &vector, sizeof vector);
}

template <class A> inline void store(A* to, const VectorOf<A>& vector, int count) {
  __builtin_memcpy(to, &vector, count * sizeof(A));
}

// Of `left` numbers at most as many as a vector has lanes.
template <class A> inline void store_of(A* to, const VectorOf<A>& vector, int64_t left) {
  if (left < Lanes<A>::count) {
    store(to, vector, left);
  } else {
    store(to, vector);
  }
}

template <class A> inline VectorOf<A> splat(A number) {
  return number - VectorOf<A>{};
}

// A place in order, its bits read backwards.
constexpr int reversed(int place, int count) {
  int result = 0;
  for (int bit = 1; bit < count; bit *= 2) result = 2 * result + ((place & bit) != 0);
  return result;
}

// Halves the parts, of `size` lanes each, that the vectors are made of, by adding each part's upper
// half to its lower one: [a_0, b_0, a_1, b_1] for parts [a_0, a_1] and [b_0, b_1].
template <int size, class V, int... lane>
inline V fold(const V& a, const V& b, std::integer_sequence<int, lane...>) {
  constexpr int lanes = sizeof...(lane), half = size / 2;
  const V lower = __builtin_shufflevector(
      a, b, (lane % size < half ? lane : lanes + lane - half)...);
  const V upper = __builtin_shufflevector(
      a, b, (lane % size < half ? lane + half : lanes + lane)...);
  return lower + upper;
}

// Writes `count` lanes, from the first on, at equal distances.
template <int count, class A, int... lane>
inline void store_every(const VectorOf<A>& vector, A* to, std::integer_sequence<int, lane...>) {
  constexpr int lanes = sizeof...(lane), every = lanes / count;
  const VectorOf<A> first = __builtin_shufflevector(vector, vector, (lane * every % lanes)...);
  __builtin_memcpy(to, &first, count * sizeof(A));
}

// Writes the sums of the `count` parts, `size` lanes each, that `vectors` vectors are made of.
template <int count, int vectors, int size, class A>
inline void sums_of_parts(VectorOf<A>* parts, A* sums) {
  constexpr auto lanes = std::make_integer_sequence<int, Lanes<A>::count>();
  if constexpr (vectors > 1) {
    UNROLL
    for (int i = 0; i < vectors / 2; ++i) {
      parts[i] = fold<size>(parts[2 * i], parts[2 * i + 1], lanes);
    }
    sums_of_parts<count, vectors / 2, size / 2, A>(parts, sums);
  } else if constexpr (size > 1) {
    // Both halves of a part become their sum.
    parts[0] = fold<size>(parts[0], parts[0], lanes);
    sums_of_parts<count, 1, size / 2, A>(parts, sums);
  } else {
    store_every<count, A>(parts[0], sums, lanes);
  }
}

template <class A, int... part>
inline void sums_of_lanes(const VectorOf<A>* vectors, A* sums,
                          std::integer_sequence<int, part...>) {
  constexpr int count = sizeof...(part);
  // Folding leaves the parts in the order of their bits read backwards.
  VectorOf<A> parts[] = {vectors[std::integral_constant<int, reversed(part, count)>::value]...};
  sums_of_parts<count, count, Lanes<A>::count, A>(parts, sums);
}

// Writes the sum over the lanes of each of `count` vectors.
template <int count, class A> inline void sums_of_lanes(const VectorOf<A>* vectors, A* sums) {
  constexpr int lanes = Lanes<A>::count;
  constexpr int step = count < lanes ? count : lanes;
  UNROLL
  for (int start = 0; start < count; start += step) {
    sums_of_lanes<A>(vectors + start, sums + start, std::make_integer_sequence<int, step>());
  }
}

}  // namespace VARIANT
}  // namespace dyngraph
