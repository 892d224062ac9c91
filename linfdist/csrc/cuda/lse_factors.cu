// What surrounds the matrix products of LogSumExp: the factors of rows before them, and the gradient
// of rows after them; the formulas are in cuda/lse.h.
//
// A block has a row, a thread every blockDim-th 16 bytes of the factors. For the factors the first
// sweep finds the reach and leaves row − centre in dynamic shared memory, the second raises it; a row
// past 64 KB (16,384 floats) is read again instead, through the L2 cache.
//
// Bound by memory: of a float entry 12 bytes for the factors and 20 for combining, in bfloat16 8 and
// 16. While an H100's 3.35 TB/s move 8 bytes, its multiprocessors issue 70 instructions for the entry;
// the factors take some 30 (sm_90, two of them special functions), combining 9.
#include <cuda_runtime.h>

#include "cuda/lse.h"
#include "cuda/numeric.cuh"
#include "cuda/rows.cuh"

namespace linfdist::cuda {
namespace {

constexpr int64_t kStagedBytes = 64 * 1024;

__device__ __forceinline__ double max_nan(double a, double b) { return a > b || a != a ? a : b; }
__device__ __forceinline__ float exp2_of(float y) { return exp2_fast(y); }
__device__ __forceinline__ double exp2_of(double y) { return exp2(y); }

// kWidth values from `at`, on 16 bytes if they are that many.
template <int kWidth, class T>
__device__ __forceinline__ void load(const T* at, T (&v)[kWidth]) {
  constexpr int kEach = kWidth == 1 ? 1 : 16 / sizeof(T);
#pragma unroll
  for (int i = 0; i < kWidth; i += kEach) {
    const auto pack = reinterpret_cast<const Pack<T, kEach>&>(at[i]);
#pragma unroll
    for (int k = 0; k < kEach; ++k) v[i + k] = pack.v[k];
  }
}

template <int kWidth>
__device__ __forceinline__ void load(const BFloat16* at, float (&v)[kWidth]) {
  const auto pack = reinterpret_cast<const Pack<BFloat16, kWidth>&>(*at);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) v[k] = __int_as_float(int(pack.v[k].bits) << 16);
}

template <int kWidth, class T>
__device__ __forceinline__ void store(T* at, const T (&v)[kWidth]) {
  constexpr int kEach = kWidth == 1 ? 1 : 16 / sizeof(T);
#pragma unroll
  for (int i = 0; i < kWidth; i += kEach) {
    Pack<T, kEach> pack;
#pragma unroll
    for (int k = 0; k < kEach; ++k) pack.v[k] = v[i + k];
    reinterpret_cast<Pack<T, kEach>&>(at[i]) = pack;
  }
}

template <int kWidth>
__device__ __forceinline__ void store(BFloat16* at, const float (&v)[kWidth]) {
  if constexpr (kWidth == 1) {
    at->bits = uint16_t(bfloat16_pair(v[0], 0.f));
  } else {
    Pack<uint32_t, kWidth / 2> pack;
#pragma unroll
    for (int k = 0; k < kWidth; k += 2) pack.v[k / 2] = bfloat16_pair(v[k], v[k + 1]);
    reinterpret_cast<Pack<uint32_t, kWidth / 2>&>(*at) = pack;
  }
}

// max(least, 2^(scale v)), where v ≤ 0; a NaN stays.
template <class T>
struct Raise {
  T scale, least;

  __device__ T operator()(T v) const { return max_nan(least, exp2_of(scale * v)); }
};

template <class T, class Factor, int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    factor_rows(const T* __restrict__ rows, const T* __restrict__ centre,
                Factor* __restrict__ factors, T* __restrict__ reach, int64_t length, bool staged,
                const Raise<T> raise) {
  rows += blockIdx.x * length;
  factors += blockIdx.x * 2 * length;
  // A thread reads of `row` only what it wrote there itself.
  T* const row = dynamic_shared<T>();
  const int64_t start = int64_t(threadIdx.x) * kWidth, step = int64_t(blockDim.x) * kWidth;
  const auto centred = [&](int64_t at, T(&v)[kWidth]) {
    T c[kWidth];
    load(rows + at, v);
    load(centre + at, c);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v[k] -= c[k];
  };

  T most = 0;
  for (int64_t at = start; at < length; at += step) {
    T v[kWidth];
    centred(at, v);
    if (staged) store(row + at, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) most = max_nan(most, T(fabs(v[k])));
  }
  most = reduce_block(most, [](T a, T b) { return max_nan(a, b); });
  if (!(most < T(INFINITY))) most = T(NAN);  // and with it every factor of the row
  if (threadIdx.x == 0) reach[blockIdx.x] = most;

  for (int64_t at = start; at < length; at += step) {
    T v[kWidth], plus[kWidth], minus[kWidth];
    if (staged)
      load(row + at, v);
    else
      centred(at, v);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      plus[k] = raise(v[k] - most);
      minus[k] = raise(-v[k] - most);
    }
    store(factors + at, plus);
    store(factors + length + at, minus);
  }
}

template <class T, class Factor, int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    combine_rows(const T* __restrict__ products, const Factor* __restrict__ factors,
                 T* __restrict__ grad, int64_t length) {
  products += blockIdx.x * 2 * length;
  factors += blockIdx.x * 2 * length;
  grad += blockIdx.x * length;
  for (int64_t at = int64_t(threadIdx.x) * kWidth; at < length;
       at += int64_t(blockDim.x) * kWidth) {
    T up[kWidth], down[kWidth], plus[kWidth], minus[kWidth];
    load(products + at, up);
    load(products + length + at, down);
    load(factors + at, plus);
    load(factors + length + at, minus);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) up[k] = up[k] * minus[k] - down[k] * plus[k];
    store(grad + at, up);
  }
}

// Calls run<kWidth>(), with as many entries as have 16 bytes of factors if every row begins on 16.
template <class Factor, class Run, class... Array>
void with_width(int64_t length, const Run& run, const Array*... arrays) {
  constexpr int kWidth = 16 / sizeof(Factor);
  if (on_16_bytes(arrays...) && length % kWidth == 0)
    run.template operator()<kWidth>();
  else
    run.template operator()<1>();
}

}  // namespace

template <class T, class Factor>
void lse_factors(const T* rows, const T* centre, Factor* factors, T* reach, int64_t count,
                 int64_t length, double t, double least, void* stream) {
  if (count == 0 || length == 0) return;
  const Raise<T> raise{T(t * kLog2E), T(std::exp2(least))};
  const int64_t bytes = length * int64_t(sizeof(T));
  const bool staged = bytes <= kStagedBytes;
  const auto run = [&]<int kWidth>() {
    launch(factor_rows<T, Factor, kWidth>, dim3(unsigned(count)),
           dim3(unsigned(row_threads(length / kWidth))), staged ? size_t(bytes) : 0, stream, rows,
           centre, factors, reach, length, staged, raise);
  };
  with_width<Factor>(length, run, rows, centre, factors);
}

template <class T, class Factor>
void lse_combine(const T* products, const Factor* factors, T* grad, int64_t count, int64_t length,
                 void* stream) {
  if (count == 0 || length == 0) return;
  const auto run = [&]<int kWidth>() {
    launch(combine_rows<T, Factor, kWidth>, dim3(unsigned(count)),
           dim3(unsigned(row_threads(length / kWidth))), 0, stream, products, factors, grad,
           length);
  };
  with_width<Factor>(length, run, products, factors, grad);
}

#define LINFDIST_INSTANTIATE(T, Factor)                                                        \
  template void lse_factors(const T*, const T*, Factor*, T*, int64_t, int64_t, double, double, \
                            void*);                                                            \
  template void lse_combine(const T*, const Factor*, T*, int64_t, int64_t, void*);
LINFDIST_INSTANTIATE(float, float)
LINFDIST_INSTANTIATE(float, BFloat16)
LINFDIST_INSTANTIATE(double, double)
#undef LINFDIST_INSTANTIATE

}  // namespace linfdist::cuda
