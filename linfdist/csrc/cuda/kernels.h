// The CUDA counterparts of CpuKernels: the same shapes and results, pointers on the current device,
// queued on `stream` (a cudaStream_t). They return at once; a failed launch throws
// std::runtime_error. Deterministic: no atomics, every sum in a fixed order.
#pragma once

#include "cpu/kernels.h"

namespace linfdist::cuda {

// Bytes of device memory, aligned to 16, that `backward` needs beside its results.
int64_t backward_workspace(Sizes, double p, int64_t bytes_per_element);

#define LINFDIST_CUDA_KERNELS(T)                                                                   \
  void forward(const T* x, const T* weight, T* distance, int32_t* index, Sizes, double p,          \
               void* stream);                                                                      \
  void backward(const T* grad, const T* x, const T* weight, const T* distance,                     \
                const int32_t* index, T* grad_x, T* grad_weight, void* workspace, Sizes, double p, \
                void* stream);                                                                     \
  void interval(const T* lower, const T* upper, const T* weight, T* distance_lower,                \
                T* distance_upper, Sizes, void* stream);
LINFDIST_CUDA_KERNELS(float)
LINFDIST_CUDA_KERNELS(double)
#undef LINFDIST_CUDA_KERNELS

}  // namespace linfdist::cuda
