// The backward op at p = ∞: each pair's gradient goes to the one feature that its index names.
//   ∂x_bi = Σ_j [index_bj = i] s_bj,  ∂w_ji = −Σ_b [index_bj = i] s_bj,  s = g sign(x_bi − w_ji).
//
// A warp owns one row of a gradient (a sample's or a neuron's) or a window of it, in shared memory, and
// walks the row's entries 4 × 32 at a time. Entries of one chunk of 32 that meet in a feature are found
// by a match and added in their order by the first of them: no atomics. Work is a pair, not a pair
// times its features: what the kernel moves, not what it computes, takes the time.
#pragma once

#include "cuda/segments.cuh"

namespace linfdist::cuda {

constexpr int kChunks = 4;
constexpr int64_t kWindowBytes = 48 * 1024;

template <class T>
int64_t window_features(int64_t features) {
  return std::min<int64_t>(features, (kWindowBytes - 32 * 8) / int64_t(sizeof(T)));
}

// out(row, ·), rows of `own`, entries of `other`; grad(row, entry) at row · row_step + entry ·
// entry_step. `entries` of a segment. Shared: a window of the row, and 32 values.
template <class T>
__global__ void __launch_bounds__(32)
    first_gradient(const T* grad, const int32_t* index, const T* own, const T* other, T* out,
                   int64_t all_entries, int64_t entries, int64_t row_step, int64_t entry_step,
                   int features, int window) {
  const int lane = threadIdx.x, i0 = blockIdx.y * window;
  const int width = min(window, features - i0);
  const int64_t row = blockIdx.x;
  T* const values = dynamic_shared<T>();
  T* const sums = values + 32;
  for (int i = lane; i < width; i += 32) sums[i] = 0;
  grad += row * row_step;
  index += row * row_step;
  own += row * features;
  const int64_t first = blockIdx.z * entries, end = min(all_entries, first + entries);

  for (int64_t e0 = first; e0 < end; e0 += 32 * kChunks) {
    int at[kChunks];
    T value[kChunks];
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const int64_t e = e0 + 32 * chunk + lane;
      at[chunk] = e < end ? index[e * entry_step] : -1;
      value[chunk] = e < end ? grad[e * entry_step] : T(0);
    }
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const int i = at[chunk];
      if (i < i0 || i >= i0 + width) {
        at[chunk] = -1;
        continue;
      }
      const T d = own[i] - other[(e0 + 32 * chunk + lane) * features + i];  // a NaN stays
      value[chunk] = d > 0 ? value[chunk] : d < 0 ? -value[chunk] : d == 0 ? T(0) : d;
    }
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      values[lane] = value[chunk];
      unsigned peers = __match_any_sync(0xffffffffu, at[chunk]);
      __syncwarp();
      if (at[chunk] >= 0 && lane == __ffs(int(peers)) - 1) {
        T sum = sums[at[chunk] - i0];
        for (; peers; peers &= peers - 1) sum += values[__ffs(int(peers)) - 1];
        sums[at[chunk] - i0] = sum;
      }
      __syncwarp();
    }
  }

  out += (blockIdx.z * int64_t(gridDim.x) + row) * features + i0;
  for (int i = lane; i < width; i += 32) out[i] = sums[i];
}

// Entries are cut into segments where rows are few. Each row alone has little to do.
template <class T>
struct FirstPlan {
  Segmented<T> x, weight;
  int64_t bytes;

  FirstPlan(Sizes n, T* grad_x, T* grad_weight, void* memory) {
    constexpr int64_t kWarps = 8;    // of one multiprocessor, at once
    constexpr double kPasses = 100;  // entries that take as long as a row of partial sums
    Workspace workspace(memory);
    x = workspace.segmented(
        grad_x, n.batch * n.in_features,
        segments_for((n.batch + kWarps - 1) / kWarps, n.out_features, 1024, kPasses));
    weight = workspace.segmented(
        grad_weight, n.out_features * n.in_features,
        segments_for((n.out_features + kWarps - 1) / kWarps, n.batch, 1024, kPasses));
    bytes = workspace.bytes();
  }
};

template <class T>
void first_backward(const T* grad, const T* x, const T* weight, const int32_t* index, T* grad_x,
                    T* grad_weight, void* memory, Sizes n, void* stream) {
  const FirstPlan<T> plan(n, grad_x, grad_weight, memory);
  const int64_t window = window_features<T>(n.in_features);
  const size_t shared = (window + 32) * sizeof(T);
  const auto run = [&](const T* own, const T* other, int64_t rows, int64_t entries,
                       int64_t row_step, int64_t entry_step, const Segmented<T>& out) {
    launch(first_gradient<T>,
           dim3(unsigned(rows), blocks(n.in_features, window), unsigned(out.segments)), dim3(32),
           shared, stream, grad, index, own, other, out.target(), entries,
           (entries + out.segments - 1) / out.segments, row_step, entry_step, int(n.in_features),
           int(window));
    out.add(stream);
  };
  run(x, weight, n.batch, n.out_features, n.out_features, 1, plan.x);
  run(weight, x, n.out_features, n.batch, 1, n.out_features, plan.weight);
}

}  // namespace linfdist::cuda
