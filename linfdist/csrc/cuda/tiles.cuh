// One plain kernel for every op in float64: out(m, n) = reduction over k of a function of a(m, k) and b(n, k), tiled
// as a matrix product is.
//
// A block of 16 × 16 threads computes a tile of 64 × 64 outputs, a thread 4 × 4 of them in registers.
// Slices of 16 k of both operands are staged in shared memory (at most 16 × 64 × (8 + 8) bytes for
// float pairs); each loaded element then serves 64 outputs.
#pragma once

#include "cuda/numeric.cuh"

namespace linfdist::cuda {

constexpr int kTile = 64, kSlice = 16, kSide = 16, kEach = kTile / kSide;

// Op has types A, B and State; a(m, k) and b(n, k) load operands, start(m, n) and finish(m, n, state)
// begin and end an output, step(state, a, b, k, n) takes one pair in. Every m, n, k is in range, but
// for the k ≥ K of a last slice, which are skipped. done: null, or not 0 where nothing is left to do.
template <class Op>
__global__ void __launch_bounds__(kSide* kSide)
    reduce_tiles(const Op op, int64_t M, int64_t N, int64_t K, const int32_t* done) {
  if (done && *done) return;
  __shared__ typename Op::A a_slice[kSlice][kTile];
  __shared__ typename Op::B b_slice[kSlice][kTile];
  const int64_t m0 = int64_t(blockIdx.x) * kTile, n0 = int64_t(blockIdx.y) * kTile;
  const int row = threadIdx.y, column = threadIdx.x, thread = row * kSide + column;

  typename Op::State state[kEach][kEach];
#pragma unroll
  for (int r = 0; r < kEach; ++r)
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
      const int64_t m = m0 + row + r * kSide, n = n0 + column + c * kSide;
      if (m < M && n < N) state[r][c] = op.start(m, n);
    }

  for (int64_t k0 = 0; k0 < K; k0 += kSlice) {
    for (int at = thread; at < kSlice * kTile; at += kSide * kSide) {
      // Neighbouring threads load along the axis that is contiguous in memory.
      const int ka = Op::kAContiguousInK ? at % kSlice : at / kTile;
      const int ma = Op::kAContiguousInK ? at / kSlice : at % kTile;
      if (m0 + ma < M && k0 + ka < K) a_slice[ka][ma] = op.a(m0 + ma, k0 + ka);
      const int kb = Op::kBContiguousInK ? at % kSlice : at / kTile;
      const int nb = Op::kBContiguousInK ? at / kSlice : at % kTile;
      if (n0 + nb < N && k0 + kb < K) b_slice[kb][nb] = op.b(n0 + nb, k0 + kb);
    }
    __syncthreads();
    const int depth = K - k0 < kSlice ? int(K - k0) : kSlice;
    for (int k = 0; k < depth; ++k)
#pragma unroll
      for (int r = 0; r < kEach; ++r)
#pragma unroll
        for (int c = 0; c < kEach; ++c)
          op.step(state[r][c], a_slice[k][row + r * kSide], b_slice[k][column + c * kSide], k0 + k,
                  n0 + column + c * kSide);
    __syncthreads();
  }

#pragma unroll
  for (int r = 0; r < kEach; ++r)
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
      const int64_t m = m0 + row + r * kSide, n = n0 + column + c * kSide;
      if (m < M && n < N) op.finish(m, n, state[r][c]);
    }
}

}  // namespace linfdist::cuda
