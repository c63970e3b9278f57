// The choice of a variant, and of threads.

#include "library.h"

#include <atomic>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define EXPORT __attribute__((visibility("default")))

namespace dyngraph {
namespace baseline {
extern const Kernels kernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif

namespace {

// OpenMP's `GOMP_parallel`, of the runtime that PyTorch is linked to. A runtime of our own would
// keep threads of its own, which would compete with PyTorch's for the cores.
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
Parallel parallel = nullptr;

struct Work {
  std::atomic<int64_t> next;
  int64_t tasks;
  void (*body)(void*, int64_t);
  void* context;
};

void work_on(void* pointer) {
  Work& work = *static_cast<Work*>(pointer);
  for (int64_t task; (task = work.next.fetch_add(1)) < work.tasks;) work.body(work.context, task);
}

}  // namespace

void ask_for_large_pages(void* memory, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr int64_t large = int64_t{1} << 22, page = 4096;
  if (bytes < large) return;
  const uintptr_t start = (reinterpret_cast<uintptr_t>(memory) + page - 1) & -page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) & -page;
  // Advice: it may be refused.
  (void)madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#endif
}

void run_tasks(int64_t tasks, int64_t threads, void (*body)(void*, int64_t), void* context) {
  Work work = {{0}, tasks, body, context};
  if (threads > tasks) threads = tasks;
  if (parallel && threads > 1) {
    parallel(work_on, &work, static_cast<unsigned>(threads), 0);
  } else {
    work_on(&work);
  }
}

extern "C" {

// Gives the function that runs threads; without it, all runs on one.
EXPORT void dyngraph_set_parallel(void* function) {
  parallel = reinterpret_cast<Parallel>(function);
}

// The kernels of a variant, or null where the processor can't run them.
EXPORT const Kernels* dyngraph_kernels(const char* variant) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!strcmp(variant, "avx512")) return has_avx512 ? &avx512::kernels : nullptr;
  if (!strcmp(variant, "avx2")) return has_avx2 ? &avx2::kernels : nullptr;
#endif
  return strcmp(variant, "baseline") ? nullptr : &baseline::kernels;
}

}  // extern "C"

}  // namespace dyngraph
