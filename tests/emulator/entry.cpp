// The functions of cuda_kernels.h for ctypes: each returns null, or what went wrong.
#include <cuda_runtime.h>

#include <exception>
#include <string>

#include "block.h"
#include "cuda_adamw.h"
#include "cuda_kernels.h"

namespace {

using linfdist::Sizes;

template <class Call>
const char* guarded(const Call& call) {
  static std::string message;
  try {
    call();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

int64_t emulated_backward_workspace(Sizes n, double p, int64_t bytes_per_element) {
  return linfdist::cuda::backward_workspace(n, p, bytes_per_element);
}

#define LINFDIST_ENTRIES(T, name)                                                                  \
  const char* emulated_forward_##name(const T* x, const T* weight, T* distance, int32_t* index,    \
                                      Sizes n, double p) {                                         \
    return guarded(                                                                                \
        [&] { linfdist::cuda::forward(x, weight, distance, index, n, p, nullptr); });              \
  }                                                                                                \
  const char* emulated_backward_##name(const T* grad, const T* x, const T* weight,                 \
                                       const T* distance, const int32_t* index, T* grad_x,         \
                                       T* grad_weight, void* workspace, Sizes n, double p) {       \
    return guarded([&] {                                                                           \
      linfdist::cuda::backward(grad, x, weight, distance, index, grad_x, grad_weight, workspace,   \
                               n, p, nullptr);                                                     \
    });                                                                                            \
  }                                                                                                \
  const char* emulated_interval_##name(const T* lower, const T* upper, const T* weight, T* low,    \
                                       T* high, Sizes n) {                                         \
    return guarded([&] { linfdist::cuda::interval(lower, upper, weight, low, high, n, nullptr); });\
  }                                                                                                \
  const char* emulated_adamw_##name(T* weight, const T* grad, T* exp_avg, T* exp_avg_sq,           \
                                    int64_t rows, int64_t length, double p, double rate,           \
                                    double lr, double beta1, double beta2, double eps,             \
                                    int64_t steps) {                                               \
    return guarded([&] {                                                                           \
      const auto step = linfdist::AdamW<T>::at(p, rate, lr, beta1, beta2, eps, steps);             \
      linfdist::cuda::adamw(weight, grad, exp_avg, exp_avg_sq, rows, length, step, nullptr);       \
    });                                                                                            \
  }

LINFDIST_ENTRIES(float, float32)
LINFDIST_ENTRIES(double, float64)
}
