// The kernels for processors with AVX-512.

#include "library.h"

#if defined(__x86_64__)
#if defined(__clang__)
#define TARGET target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#pragma clang attribute push(__attribute__((TARGET)), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define VARIANT avx512
#define VECTOR_BYTES 64
#include "sums.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
