// The CUDA counterparts of what CpuKernels does by LogSumExp; see cuda/kernels.h. Deterministic: no
// atomics.
//
// *fits is not 0 where products of factors have given the results already; then the kernels return at
// once and leave the results as they are. It lies on the device and is read there: nothing waits.
#pragma once

#include "cpu/kernels.h"

namespace linfdist::cuda {

// The upper half of a float.
struct BFloat16 {
  uint16_t bits;
};

// Bytes of device memory, aligned to 16, that `lse_backward` needs beside its results.
int64_t lse_workspace(Sizes, int64_t bytes_per_element);

#define LINFDIST_CUDA_LSE(T)                                                                       \
  void lse_forward(const T* x, const T* weight, T* distance, T* total, const int32_t* fits, Sizes, \
                   double t, void* stream);                                                        \
  void lse_backward(const T* grad, const T* x, const T* weight, const T* total, T* grad_x,         \
                    T* grad_weight, void* workspace, const int32_t* fits, Sizes, double t,         \
                    void* stream);
LINFDIST_CUDA_LSE(float)
LINFDIST_CUDA_LSE(double)
#undef LINFDIST_CUDA_LSE

// Of `count` rows of `length`: v = row − centre, reach = max |v|, and the factors of v and of −v one
// after the other, max(2^least, 2^(t log2(e) (±v − reach))): none above 1. T, Factor: float, float;
// float, BFloat16; double, double.
template <class T, class Factor>
void lse_factors(const T* rows, const T* centre, Factor* factors, T* reach, int64_t count,
                 int64_t length, double t, double least, void* stream);

// grad = products[:, :length] factors[:, length:] − products[:, length:] factors[:, :length]: the
// gradient of the rows that these are the factors of, where the products are those of −grad / total
// with the factors of the other rows.
template <class T, class Factor>
void lse_combine(const T* products, const Factor* factors, T* grad, int64_t count, int64_t length,
                 void* stream);

}  // namespace linfdist::cuda
