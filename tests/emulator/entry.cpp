// The functions of cuda/kernels.h for ctypes: each returns null, or what went wrong.
#include <cuda_runtime.h>

#include <exception>
#include <string>

#include "block.h"
#include "cuda/adamw.h"
#include "cuda/kernels.h"
#include "cuda/lse.h"

namespace {

using linfdist::Sizes;
using linfdist::cuda::BFloat16;

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

int64_t emulated_lse_workspace(Sizes n, int64_t bytes_per_element) {
  return linfdist::cuda::lse_workspace(n, bytes_per_element);
}

#define LINFDIST_FACTOR_ENTRIES(T, Factor, name)                                                   \
  const char* emulated_lse_factors_##name(const T* rows, const T* centre, Factor* factors,         \
                                          T* reach, int64_t count, int64_t length, double t,       \
                                          double least) {                                          \
    return guarded([&] {                                                                           \
      linfdist::cuda::lse_factors(rows, centre, factors, reach, count, length, t, least, nullptr); \
    });                                                                                            \
  }                                                                                                \
  const char* emulated_lse_combine_##name(const T* products, const Factor* factors, T* grad,       \
                                          int64_t count, int64_t length) {                         \
    return guarded(                                                                                \
        [&] { linfdist::cuda::lse_combine(products, factors, grad, count, length, nullptr); });    \
  }
LINFDIST_FACTOR_ENTRIES(float, float, float32)
LINFDIST_FACTOR_ENTRIES(float, BFloat16, bfloat16)
LINFDIST_FACTOR_ENTRIES(double, double, float64)

#define LINFDIST_ENTRIES(T, name)                                                                  \
  const char* emulated_forward_##name(const T* x, const T* weight, T* distance, int32_t* index,    \
                                      Sizes n, double p) {                                         \
    return guarded([&] { linfdist::cuda::forward(x, weight, distance, index, n, p, nullptr); });   \
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
    return guarded(                                                                                \
        [&] { linfdist::cuda::interval(lower, upper, weight, low, high, n, nullptr); });           \
  }                                                                                                \
  const char* emulated_lse_forward_##name(const T* x, const T* weight, T* distance, T* total,      \
                                          const int32_t* fits, Sizes n, double t) {                \
    return guarded(                                                                                \
        [&] { linfdist::cuda::lse_forward(x, weight, distance, total, fits, n, t, nullptr); });    \
  }                                                                                                \
  const char* emulated_lse_backward_##name(                                                        \
      const T* grad, const T* x, const T* weight, const T* total, T* grad_x, T* grad_weight,       \
      void* workspace, const int32_t* fits, Sizes n, double t) {                                   \
    return guarded([&] {                                                                           \
      linfdist::cuda::lse_backward(grad, x, weight, total, grad_x, grad_weight, workspace, fits,   \
                                   n, t, nullptr);                                                 \
    });                                                                                            \
  }                                                                                                \
  const char* emulated_adamw_##name(                                                               \
      T* weight, const T* grad, T* exp_avg, T* exp_avg_sq, int64_t rows, int64_t length, double p, \
      double rate, double lr, double beta1, double beta2, double eps, int64_t steps) {             \
    return guarded([&] {                                                                           \
      const auto step = linfdist::AdamW<T>::at(p, rate, lr, beta1, beta2, eps, steps);             \
      linfdist::cuda::adamw(weight, grad, exp_avg, exp_avg_sq, rows, length, step, nullptr);       \
    });                                                                                            \
  }

LINFDIST_ENTRIES(float, float32)
LINFDIST_ENTRIES(double, float64)
}
