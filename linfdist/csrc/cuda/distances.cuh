// The two mainloops of the forward kernels: out(m, n) = a norm of the differences x(m, k) − w(n, k).
//
// distance_tiles, for layers: tiled in registers as a matrix product is. A block computes a tile of
// 64 × 64 outputs, a thread 8 × 4 of them; four warps a block, so that a multiprocessor's four
// schedulers have the same to do. Slices of 16 k of both operands pass through three stages of shared
// memory, filled by asynchronous copies two slices ahead (10 KB a stage; 15 KB with two planes). Rows
// are kept as they lie in memory, k last, and 20 floats apart, so that 16-byte loads of eight
// neighbouring rows touch every bank once. Beside the norm's own instructions a pair costs 3/32 of a
// 16-byte load.
//
// distance_rows, where tiles would leave most of the GPU idle (a last layer of 10 neurons, a batch of
// one): a warp takes one row of one operand and up to eight of the other, its lanes the features.
#pragma once

#include "cpu/kernels.h"
#include "cuda/norms.cuh"

namespace linfdist::cuda {

constexpr int kTile = 64, kSlice = 16, kStages = 3, kStride = kSlice + 4;
constexpr int kRows = 8, kColumns = 4, kThreads = kTile / kRows * kTile / kColumns;

template <class Norm>
struct Operands {
  const float* x[Norm::kPlanes];
  const float* weight;
  Sizes n;
  bool vectors;  // every row begins on 16 bytes
};

// Starts the copy of a slice of the tile's rows, `width` floats at a time; zeros past the last row and
// the last k.
template <int width>
__device__ __forceinline__ void copy_slice(float* to, const float* rows, int count, int length,
                                           int k0) {
  constexpr int kAcross = kSlice / width, kStep = kThreads / kAcross;
  const int row = threadIdx.x / kAcross, k = threadIdx.x % kAcross * width;
  const float* from = rows + int64_t(row) * length + k0 + k;
  to += row * kStride + k;
#pragma unroll
  for (int r = 0; r < kTile; r += kStep, from += int64_t(kStep) * length)
    copy_async<4 * width>(to + r * kStride, from, row + r < count && k0 + k < length);
}

__device__ __forceinline__ float4 quad(const float* at) {
  return *reinterpret_cast<const float4*>(at);
}

template <class Norm>
__global__ void __launch_bounds__(kThreads, Norm::kBlocks)
    distance_tiles(const Norm norm, const Operands<Norm> in) {
  if constexpr (Norm::kConditional)
    if (norm.done()) return;
  constexpr int kPlanes = Norm::kPlanes;
  constexpr int kSide = kTile / kColumns;  // threads along n; along m there are 8
  __shared__ __align__(16) float slices[kStages][kPlanes + 1][kTile * kStride];
  const int64_t m0 = int64_t(blockIdx.x) * kTile, n0 = int64_t(blockIdx.y) * kTile;
  const int length = int(in.n.in_features);
  const int row = threadIdx.x / kSide, column = threadIdx.x % kSide;

  const auto copy = [&](int k0, int stage) {
#pragma unroll
    for (int plane = 0; plane <= kPlanes; ++plane) {
      const int64_t first = plane < kPlanes ? m0 : n0;
      const int64_t left = (plane < kPlanes ? in.n.batch : in.n.out_features) - first;
      const float* rows = (plane < kPlanes ? in.x[plane] : in.weight) + first * length;
      const int count = left < kTile ? int(left) : kTile;
      if (in.vectors)
        copy_slice<4>(slices[stage][plane], rows, count, length, k0);
      else
        copy_slice<1>(slices[stage][plane], rows, count, length, k0);
    }
    commit_copies();
  };

  typename Norm::State state[kRows][kColumns];
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int c = 0; c < kColumns; ++c) state[r][c] = norm.start();

#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) copy(stage * kSlice, stage);
  int stage = 0;
  for (int k0 = 0; k0 < length; k0 += kSlice) {
    wait_copies<kStages - 2>();
    __syncthreads();  // this slice is here, and all are done with the one before, which goes next
    copy(k0 + (kStages - 1) * kSlice, stage == 0 ? kStages - 1 : stage - 1);
    const int depth = Norm::kZerosCount ? min(kSlice, length - k0) : kSlice;
#pragma unroll 1
    for (int k = 0; k < depth; k += 4) {
      float4 x[kRows][kPlanes];
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane)
          x[r][plane] = quad(&slices[stage][plane][(row + r * kTile / kRows) * kStride + k]);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const float4 w = quad(&slices[stage][kPlanes][(column + c * kSide) * kStride + k]);
#pragma unroll
        for (int r = 0; r < kRows; ++r) norm.take(state[r][c], x[r], w);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) norm.passed(state[r][c], k0);
    stage = stage == kStages - 1 ? 0 : stage + 1;
  }

  unsigned open = 0;  // outputs to mend
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int64_t m = m0 + row + r * kTile / kRows, n = n0 + column + c * kSide;
      if (m < in.n.batch && n < in.n.out_features && norm.finish(m, n, state[r][c]))
        open |= 1u << (r * kColumns + c);
    }
  for (; open; open &= open - 1) {
    const int o = __ffs(int(open)) - 1;
    norm.mend(m0 + row + o / kColumns * kTile / kRows, n0 + column + o % kColumns * kSide);
  }
  if constexpr (Norm::kSearches) {
    __syncthreads();
    for (int o = threadIdx.x / 4; o < kTile * kTile; o += kThreads / 4) {
      const int64_t m = m0 + o / kTile, n = n0 + o % kTile;
      norm.search(m, n, m < in.n.batch && n < in.n.out_features, threadIdx.x % 4);
    }
  }
}

constexpr int kRowWarps = 4, kRowOutputs = 8;

// The state of the lane `mask` away.
template <class State>
__device__ __forceinline__ State exchanged(const State& state, int mask) {
  constexpr int kWords = sizeof(State) / sizeof(int);
  State out;
#pragma unroll
  for (int i = 0; i < kWords; ++i)
    reinterpret_cast<int*>(&out)[i] =
        __shfl_xor_sync(0xffffffffu, reinterpret_cast<const int*>(&state)[i], mask);
  return out;
}

// kOneSample: a warp has one sample and eight neurons; otherwise one neuron and eight samples.
template <class Norm, bool kOneSample>
__global__ void __launch_bounds__(32 * kRowWarps)
    distance_rows(const Norm norm, const Operands<Norm> in) {
  if constexpr (Norm::kConditional)
    if (norm.done()) return;
  constexpr int kPlanes = Norm::kPlanes;
  const int lane = threadIdx.x % 32;
  const int length = int(in.n.in_features);
  const int64_t one = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  const int64_t first = int64_t(blockIdx.y) * kRowOutputs;
  const int64_t ones = kOneSample ? in.n.batch : in.n.out_features;
  const int64_t many = kOneSample ? in.n.out_features : in.n.batch;
  if (one >= ones) return;  // the whole warp

  typename Norm::State state[kRowOutputs];
#pragma unroll
  for (int o = 0; o < kRowOutputs; ++o) state[o] = norm.start();
  for (int k = 4 * lane; k < length; k += 4 * 32) {
    float4 x[kPlanes], w;
    if constexpr (kOneSample) {
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane)
        x[plane] = features_at(in.x[plane] + one * length, k, length, in.vectors);
    } else {
      w = features_at(in.weight + one * length, k, length, in.vectors);
    }
#pragma unroll
    for (int o = 0; o < kRowOutputs; ++o) {
      if (first + o >= many) break;
      if constexpr (kOneSample) {
        w = features_at(in.weight + (first + o) * length, k, length, in.vectors);
      } else {
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane)
          x[plane] = features_at(in.x[plane] + (first + o) * length, k, length, in.vectors);
      }
      norm.take(state[o], x, w);
      norm.passed(state[o], k);
    }
  }
#pragma unroll
  for (int o = 0; o < kRowOutputs; ++o) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) norm.join(state[o], exchanged(state[o], mask));
    const int64_t m = kOneSample ? one : first + o, n = kOneSample ? first + o : one;
    if (lane == o && first + o < many && norm.finish(m, n, state[o])) norm.mend(m, n);
  }
  if constexpr (Norm::kSearches) {
    __syncwarp();
    const int64_t o = first + lane / 4;
    norm.search(kOneSample ? one : o, kOneSample ? o : one, o < many, lane % 4);
  }
}

}  // namespace linfdist::cuda
