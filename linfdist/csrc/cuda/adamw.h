// The CUDA counterpart of CpuKernels::adamw, launched on `stream` of the current device; see
// cuda/kernels.h. Deterministic: no atomics.
#pragma once

#include "adamw_step.h"

namespace linfdist::cuda {

template <class T>
void adamw(T* weight, const T* grad, T* exp_avg, T* exp_avg_sq, int64_t rows, int64_t length,
           const AdamW<T>& step, void* stream);

}  // namespace linfdist::cuda
