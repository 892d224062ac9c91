// One optimizer step on the rows of a matrix, in place: decay, then Adam (see adamw_step.h).
//
// A block has a row, a thread every blockDim-th 16 bytes of it. The first sweep finds the largest
// weight and leaves the row in dynamic shared memory, the second sums the powers, the last is decay
// and Adam; it takes the powers again, and shared memory holds rows twice as long.
//
// Bound by memory: 28 bytes a float weight, each read or written once, which an H100's 3.35 TB/s do
// for 120 weights a nanosecond. Its multiprocessors issue 250 instructions a weight in that time;
// plain decay and p = ∞ take some 50, other p some 160 (sm_90, float), in less than 40 registers.
#include <cuda_runtime.h>

#include "cuda/adamw.h"
#include "cuda/rows.cuh"

namespace linfdist::cuda {
namespace {

constexpr int64_t kStagedBytes = 48 * 1024;  // longer rows are read again, through the L2 cache

template <class T, int kWidth, Decay kDecay>
__global__ void __launch_bounds__(kRowThreads)
    adamw_rows(T* __restrict__ weight, const T* __restrict__ grad, T* __restrict__ exp_avg,
               T* __restrict__ exp_avg_sq, int64_t length, bool staged, const AdamW<T> step) {
  using Values = Pack<T, kWidth>;
  const int64_t packs = length / kWidth, start = blockIdx.x * packs;
  Values* const weights = reinterpret_cast<Values*>(weight) + start;
  const Values* const grads = reinterpret_cast<const Values*>(grad) + start;
  Values* const exp_avgs = reinterpret_cast<Values*>(exp_avg) + start;
  Values* const exp_avg_sqs = reinterpret_cast<Values*>(exp_avg_sq) + start;

  // A thread reads of `row` only what it wrote there itself.
  Values* const row = staged ? dynamic_shared<Values>() : weights;
  T largest = 0, factor = 0;
  if constexpr (kDecay != Decay::kPlain) {
    int64_t first = length;
    for (int64_t at = threadIdx.x; at < packs; at += blockDim.x) {
      const Values w = weights[at];
      if (staged) row[at] = w;
      for (int k = 0; k < kWidth; ++k)
        if (std::fabs(w.v[k]) > largest) {
          largest = std::fabs(w.v[k]);
          first = at * kWidth + k;
        }
    }
    const T own = largest;
    largest = reduce_block(own, [](T a, T b) { return a > b ? a : b; });
    if constexpr (kDecay == Decay::kLargest) {
      if (own < largest) first = length;
      if (first == reduce_block(first, [](int64_t a, int64_t b) { return a < b ? a : b; }) &&
          first < length) {
        T& w = row[first / kWidth].v[first % kWidth];
        w = step.plainly_decayed(w);
      }
    } else {
      T sum = 0;
      for (int64_t at = threadIdx.x; at < packs; at += blockDim.x) {
        const Values w = row[at];
        for (int k = 0; k < kWidth; ++k) {
          const T ratio = std::fabs(w.v[k]) / largest;
          sum += step.raised(ratio) * ratio;
        }
      }
      factor = step.factor(largest, reduce_block(sum, [](T a, T b) { return a + b; }));
    }
  }

  for (int64_t at = threadIdx.x; at < packs; at += blockDim.x) {
    Values w = row[at], m = exp_avgs[at], v = exp_avg_sqs[at];
    const Values g = grads[at];
    for (int k = 0; k < kWidth; ++k) {
      if constexpr (kDecay == Decay::kPlain) w.v[k] = step.plainly_decayed(w.v[k]);
      if constexpr (kDecay == Decay::kPower)
        w.v[k] = step.decayed(w.v[k], step.raised(std::fabs(w.v[k]) / largest), factor);
      step.adam(w.v[k], g.v[k], m.v[k], v.v[k]);
    }
    weights[at] = w;
    exp_avgs[at] = m;
    exp_avg_sqs[at] = v;
  }
}

}  // namespace

template <class T>
void adamw(T* weight, const T* grad, T* exp_avg, T* exp_avg_sq, int64_t rows, int64_t length,
           const AdamW<T>& step, void* stream) {
  if (rows == 0 || length == 0) return;
  const auto run = [&]<int kWidth, Decay kDecay>() {
    const int64_t packs = length / kWidth;
    const int64_t bytes = kDecay == Decay::kPlain ? 0 : length * int64_t(sizeof(T));
    const bool staged = 0 < bytes && bytes <= kStagedBytes;
    launch(adamw_rows<T, kWidth, kDecay>, dim3(unsigned(rows)), dim3(unsigned(row_threads(packs))),
           staged ? size_t(bytes) : 0, stream, weight, grad, exp_avg, exp_avg_sq, length, staged,
           step);
  };
  const auto run_decay = [&]<int kWidth>() {
    if (step.decay == Decay::kPlain)
      run.template operator()<kWidth, Decay::kPlain>();
    else if (step.decay == Decay::kPower)
      run.template operator()<kWidth, Decay::kPower>();
    else
      run.template operator()<kWidth, Decay::kLargest>();
  };
  if (on_16_bytes(weight, grad, exp_avg, exp_avg_sq) && length * sizeof(T) % 16 == 0)
    run_decay.template operator()<16 / sizeof(T)>();
  else
    run_decay.template operator()<1>();
}

template void adamw(float*, const float*, float*, float*, int64_t, int64_t, const AdamW<float>&,
                    void*);
template void adamw(double*, const double*, double*, double*, int64_t, int64_t,
                    const AdamW<double>&, void*);

}  // namespace linfdist::cuda
