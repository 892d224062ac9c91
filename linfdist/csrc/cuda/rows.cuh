// For kernels in which a block has a row of a matrix: 16 bytes at a time, and reductions over it.
#pragma once

#include <algorithm>

#include "cuda/device.cuh"

namespace linfdist::cuda {

constexpr int kWarp = 32, kRowThreads = 256;
constexpr unsigned kAllLanes = 0xffffffff;

template <class T, int kWidth>
struct alignas(kWidth * sizeof(T)) Pack {
  T v[kWidth];
};

// Threads of a block whose row has so many packs: whole warps.
inline int64_t row_threads(int64_t packs) {
  return std::min<int64_t>(kRowThreads, (packs + kWarp - 1) / kWarp * kWarp);
}

// Whether all arrays begin on 16 bytes.
template <class... T>
bool on_16_bytes(const T*... arrays) {
  return (uintptr_t(arrays) | ...) % 16 == 0;
}

// op over the values of a block of whole warps, in one order for all threads. Shared memory and
// barrier serve one call of each op.
template <class V, class Op>
__device__ __forceinline__ V reduce_block(V value, const Op& op) {
  __shared__ V of_warp[kRowThreads / kWarp];
  for (unsigned lane = kWarp / 2; lane > 0; lane /= 2)
    value = op(value, __shfl_xor_sync(kAllLanes, value, lane));
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = of_warp[0];
  for (unsigned warp = 1; warp < blockDim.x / kWarp; ++warp) value = op(value, of_warp[warp]);
  return value;
}

}  // namespace linfdist::cuda
