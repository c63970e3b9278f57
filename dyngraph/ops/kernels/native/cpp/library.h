// What a library of kernels offers to Python, and what its variants share.
//
// Plain data and functions only: an inline function of this file or of the standard library, in
// code that is compiled for several instruction sets, could be linked into the wrong one.

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include <type_traits>
#include <utility>

namespace dyngraph {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

extern "C" {

enum Dtype { kFloat, kDouble, kHalf, kBFloat16, kInt, kLong };

// Features [rows, channels], row after row.
struct Features {
  const void* data;
  int64_t stride;
};

// The samples of N nodes: positions [N, H, K, P], float or double, on maps. These come as numbers:
// the number of levels, the samples on each, and for each part of the batch its images, the
// receivers of one, and the shapes of its levels. Or, with P = 0, the rows [N, H, K] themselves,
// int or long, and as the only shape their number.
struct Samples {
  const void* pos;
  int64_t dtype, own, samples, axes, border;
  const int64_t* maps;
  int64_t numbers;
};

// What all operators take: whose samples, of G groups of channels, the dtype of features, and the
// number of threads.
struct Call {
  Samples samples;
  int64_t groups, channels, dtype, threads;
};

// Sums are of float, or of double for features of double, and so are numbers below that come as
// void pointers. K samples have 2^P K corners, each with a weight w.
struct Kernels {
  // s = scale * sum_c w_ck x . t_ck + bias [N, G, K], or its softmax over k; and, if wanted, the
  // products x . t_ck [N, G, 2^P, K].
  void (*score)(const Call*, Features x, Features table, double scale, const void* bias,
                int64_t softmax, void* score, void* products);
  // y = sum_ck weight_k w_ck t_ck [N, C].
  void (*sum)(const Call*, const void* weight, Features table, void* out);
  // Of x . y with this y: the gradients of the weights and, added, of positions; and with
  // weight = scale * weight, the gradient y of x. Null pointers where none is wanted. The products
  // are those of `score`, if it kept them.
  void (*gradients)(const Call*, Features x, const void* weight, double scale, Features table,
                    const void* products, void* grad_weight, void* grad_pos, void* grad_x);
  // t_m = sum over the samples with corner m of weight_k w_ck x [M, C]; and the same of a second
  // pair, if there is one, in a table of its own or added.
  void (*scatter)(const Call*, const void* weight, double scale, Features x, void* table,
                  const void* other_weight, Features other, void* other_table);
};

}  // extern "C"

// Asks for large pages under new memory, see dyngraph/ops/large_pages.py.
void ask_for_large_pages(void* memory, int64_t bytes);

// Runs `body(context, task)` for all tasks, on at most `threads` threads.
void run_tasks(int64_t tasks, int64_t threads, void (*body)(void*, int64_t), void* context);

}  // namespace dyngraph
