// Blocking that the forward kernels share. A tile of kRows samples by C vectors of neurons stays in
// registers while it runs over kDepth features: lanes are neurons, so nothing is reduced across a
// vector and every pair of sample and neuron sums in the same order on any number of threads.
#pragma once

#include <omp.h>

#include <cstdlib>
#include <limits>

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace linfdist::LINFDIST_ISA {

#if defined(__AVX512F__)
constexpr int kRows = 6, kVectors = 4;  // 24 of 32 registers accumulate
#else
constexpr int kRows = 4, kVectors = 2;  // 8 of 16
#endif
constexpr int64_t kDepth = 128;      // a panel of kDepth × kVectors stays in the first-level cache
constexpr int64_t kIndexDepth = 64;  // the same, where the index of the maximum is wanted

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Threads for a call over so many pairs. A small one runs alone: starting a team and waiting for it
// costs more than 2^21 subtractions, and far more where other programs hold the cores.
inline int threads_for(Sizes n) {
  const bool small = double(n.batch) * n.out_features * n.in_features < (1 << 21);
  return small ? 1 : omp_get_max_threads();
}

// Uninitialised, cache-line aligned.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(std::aligned_alloc(64, ceil_div(count * sizeof(T) + 1, 64) * 64))) {
    if (!data_) std::abort();  // the operating system kills before this returns null
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_;
};

// What one scan over the rows of a matrix finds.
enum RowKind : uint8_t { kFinite, kHasInfinity, kHasNan };

template <class T>
struct RowScan {
  Buffer<uint8_t> kind;
  T largest = 0;  // of the finite rows
  bool all_finite = true;

  RowScan(const T* rows, int64_t count, int64_t length, int threads) : kind(count) {
    T most = 0;
    bool finite = true;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(max : most) \
    reduction(&& : finite)
    for (int64_t row = 0; row < count; ++row) {
      const T* values = rows + row * length;
      Vec<T> top{}, zero{};
      int64_t i = 0;
      for (; i + kLanes<T> <= length; i += kLanes<T>) {
        const Vec<T> v = load<T>(values + i);
        top = max_abs<T>(top, v);
        zero += v * T(0);  // NaN for an infinity or a NaN
      }
      T row_top = 0, row_zero = 0;
      for (int lane = 0; lane < kLanes<T>; ++lane) {
        row_top = top[lane] > row_top ? top[lane] : row_top;
        row_zero += zero[lane];
      }
      for (; i < length; ++i) {
        row_top = std::fabs(values[i]) > row_top ? std::fabs(values[i]) : row_top;
        row_zero += values[i] * T(0);
      }
      kind[row] = kFinite;
      if (row_zero == 0) {
        most = row_top > most ? row_top : most;
        continue;
      }
      kind[row] = kHasInfinity;
      finite = false;
      for (i = 0; i < length; ++i)
        if (std::isnan(values[i])) kind[row] = kHasNan;
    }
    largest = most;
    all_finite = finite;
  }
};

// rows [count, length] times `scale`, interleaved by kRows: packed[tile][i][row in tile]; rows past
// the end are zero.
template <class T>
void pack_rows(const T* rows, int64_t count, int64_t length, T scale, int threads, T* packed) {
  const int64_t tiles = ceil_div(count, kRows);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int64_t i0 = 0; i0 < length; i0 += 16)
      for (int r = 0; r < kRows; ++r) {
        const int64_t row = tile * kRows + r;
        T* to = packed + tile * length * kRows + r;
        const int64_t stop = smaller(length, i0 + 16);
        for (int64_t i = i0; i < stop; ++i)
          to[i * kRows] = row < count ? rows[row * length + i] * scale : T(0);
      }
}

// Features first .. first + depth of `width` neurons from `column` on, times `scale`, as a panel
// [i][width]; neurons past the end are zero.
template <class T>
void pack_panel(const T* weight, Sizes n, int64_t column, int width, int64_t first, int64_t depth,
                T scale, T* panel) {
  for (int64_t i0 = 0; i0 < depth; i0 += 16) {
    const int64_t stop = smaller(depth, i0 + 16);
    for (int j = 0; j < width; ++j) {
      const bool inside = column + j < n.out_features;
      const T* from = weight + (column + j) * n.in_features + first;
      for (int64_t i = i0; i < stop; ++i) panel[i * width + j] = inside ? from[i] * scale : T(0);
    }
  }
}

// Calls visit(column, first_tile, stop_tile) in parallel over blocks of `width` neurons and ranges of
// row tiles: whole columns where there are enough of them, because packing a panel costs.
template <class Visit>
void for_each_block(Sizes n, int width, const Visit& visit) {
  const int threads = threads_for(n);
  const int64_t columns = ceil_div(n.out_features, width), tiles = ceil_div(n.batch, kRows);
  const int64_t wanted = columns >= 2 * threads ? 1 : ceil_div(4 * threads, columns);
  const int64_t chunk = ceil_div(tiles, smaller(wanted, tiles));
  const int64_t chunks = ceil_div(tiles, chunk);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t task = 0; task < columns * chunks; ++task) {
    const int64_t first = task % chunks * chunk;
    visit(task / chunks * width, first, smaller(tiles, first + chunk));
  }
}

// Runs `op(accumulators, differences, place)` for each row and feature of one tile: accumulators
// [kRows][C · lanes] are in memory, kept in registers for `depth`.
template <class T, int C, class Op>
LINFDIST_INLINE void run_tile(const T* rows, const T* panel, int64_t depth, T* accumulators,
                              const Op& op) {
  constexpr int width = C * kLanes<T>;
  Vec<T> a[kRows][C];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) a[r][c] = load<T>(accumulators + r * width + c * kLanes<T>);
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> w[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) w[c] = load<T>(panel + k * width + c * kLanes<T>);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      Vec<T> d[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) d[c] = rows[k * kRows + r] - w[c];
      op(a[r], d, r * width);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) store<T>(accumulators + r * width + c * kLanes<T>, a[r][c]);
}

}  // namespace linfdist::LINFDIST_ISA
