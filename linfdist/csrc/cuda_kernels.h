// The CUDA counterparts of CpuKernels: the same shapes and results, pointers on one device, launched
// on `stream` (a cudaStream_t) of the current device. They return at once; a failed launch throws
// std::runtime_error. Deterministic: no atomics.
#pragma once

#include "cpu_kernels.h"

namespace linfdist {

template <class T>
struct CudaKernels {
  static void forward(const T* x, const T* weight, T* distance, int32_t* index, Sizes, double p,
                      void* stream);
  static void backward(const T* grad, const T* x, const T* weight, const T* distance,
                       const int32_t* index, T* grad_x, T* grad_weight, Sizes, double p,
                       void* stream);
  static void interval(const T* lower, const T* upper, const T* weight, T* distance_lower,
                       T* distance_upper, Sizes, void* stream);
};

}  // namespace linfdist
