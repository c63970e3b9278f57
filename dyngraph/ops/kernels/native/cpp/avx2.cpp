// The kernels for processors with AVX2: most since 2013.

#include "library.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define VARIANT avx2
#define VECTOR_BYTES 32
#include "sums.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
