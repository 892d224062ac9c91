// What one instruction set's kernels offer, and the choice among them.
//
// Shapes: x (batch, in), weight (out, in), distances (batch, out); all contiguous, row by row.
// p in [1, ∞]. Results do not depend on the number of threads.
#pragma once

#include <cstdint>

namespace linfdist {

struct Sizes {
  int64_t batch, out_features, in_features;
};

template <class T>
struct AdamW;  // adamw_step.h

template <class T>
struct CpuKernels {
  // distance = ‖x − w‖_p. For p = ∞ and index not null, index[b, j] is the first i that attains it.
  void (*forward)(const T* x, const T* weight, T* distance, int32_t* index, Sizes, double p);
  // Both gradients of Σ grad · distance; index is read at p = ∞ only.
  void (*backward)(const T* grad, const T* x, const T* weight, const T* distance,
                   const int32_t* index, T* grad_x, T* grad_weight, Sizes, double p);
  // Exact range of ‖x − w‖_∞ over the box lower ≤ x ≤ upper.
  void (*interval)(const T* lower, const T* upper, const T* weight, T* distance_lower,
                   T* distance_upper, Sizes);
  // f_t by LogSumExp, and the total of each pair's exponentials, e^(−t ‖x − w‖_∞) times their sum.
  void (*lse_forward)(const T* x, const T* weight, T* distance, T* total, Sizes, double t);
  // Both gradients of Σ grad · f_t.
  void (*lse_backward)(const T* grad, const T* x, const T* weight, const T* total, T* grad_x,
                       T* grad_weight, Sizes, double t);
  // What the two products of f_t are made of, and the last step of its gradients (cpu/factors.h).
  // rows (count, length), centre (length), factors and products (count, 2 length), reach (count).
  void (*lse_factors)(const T* rows, const T* centre, T* factors, T* reach, int64_t count,
                      int64_t length, double t, double least);
  void (*lse_combine)(const T* products, const T* factors, T* grad, int64_t count, int64_t length);
  // One optimizer step on `rows` rows of `length` weights, in place.
  void (*adamw)(T* weight, const T* grad, T* exp_avg, T* exp_avg_sq, int64_t rows, int64_t length,
                const AdamW<T>& step);
};

struct CpuIsa {
  const char* name;
  CpuKernels<float> f32;
  CpuKernels<double> f64;
};

// The widest instruction set that this machine has; LINFDIST_ISA=baseline|avx2|avx512 asks for less.
const CpuIsa& cpu_isa();

}  // namespace linfdist
