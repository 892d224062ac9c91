// The exact range of ‖x − w‖_∞ over a box: lower_j = max_i max(l_i − w_i, w_i − u_i, 0) and
// upper_j = max_i max(u_i − w_i, w_i − l_i), each difference rounded once as in the forward pass.
// Cost per pair: 2 subtractions, 4 maxima or minima.
#pragma once

#include "cpu/forward.h"

namespace linfdist::LINFDIST_ISA {

template <class T, int C>
void interval_block(const T* packed_lower, const T* packed_upper, const T* weight, T* lower,
                    T* upper, Sizes n, int64_t column, int64_t first_tile, int64_t stop_tile) {
  constexpr int width = C * kLanes<T>, tile_size = kRows * width;
  const int64_t tiles = stop_tile - first_tile;
  Buffer<T> panel(kDepth * width), low(tiles * tile_size), high(tiles * tile_size);
  std::memset(low.get(), 0, tiles * tile_size * sizeof(T));
  for (int64_t i = 0; i < tiles * tile_size; ++i) high[i] = std::numeric_limits<T>::infinity();
  for (int64_t k = 0; k < n.in_features; k += kDepth) {
    const int64_t depth = smaller(kDepth, n.in_features - k);
    pack_panel<T>(weight, n, column, width, k, depth, T(1), panel.get());
    for (int64_t t = 0; t < tiles; ++t)
      for (int c = 0; c < C; ++c) {
        T* const low_tile = low.get() + t * tile_size + c * kLanes<T>;
        T* const high_tile = high.get() + t * tile_size + c * kLanes<T>;
        const int64_t at = ((first_tile + t) * n.in_features + k) * kRows;
        Vec<T> most[kRows], least[kRows];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          most[r] = load<T>(low_tile + r * width);
          least[r] = load<T>(high_tile + r * width);
        }
        for (int64_t i = 0; i < depth; ++i) {
          const Vec<T> w = load<T>(panel.get() + i * width + c * kLanes<T>);
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) {
            const Vec<T> below = packed_lower[at + i * kRows + r] - w;  // l − w
            const Vec<T> above = w - packed_upper[at + i * kRows + r];  // w − u
            most[r] = max<T>(max<T>(most[r], below), above);
            least[r] = min<T>(min<T>(least[r], below), above);
          }
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          store<T>(low_tile + r * width, most[r]);
          store<T>(high_tile + r * width, least[r]);
        }
      }
  }
  for (int64_t row = first_tile * kRows; row < smaller(n.batch, stop_tile * kRows); ++row)
    for (int64_t j = column; j < smaller(n.out_features, column + width); ++j) {
      const int64_t at = (row - first_tile * kRows) * width + (j - column);
      lower[row * n.out_features + j] = low[at];
      upper[row * n.out_features + j] = -high[at];
    }
}

// Whether a feature is the same infinity in the neuron and in a bound.
template <class T>
bool meet_in_infinity(const T* lower, const T* upper, const T* weight, int64_t length) {
  for (int64_t i = 0; i < length; ++i)
    if (std::isinf(weight[i]) && (lower[i] == weight[i] || upper[i] == weight[i])) return true;
  return false;
}

template <class T>
void interval(const T* lower, const T* upper, const T* weight, T* distance_lower, T* distance_upper,
              Sizes n) {
  const int64_t size = ceil_div(n.batch, kRows) * kRows * n.in_features;
  Buffer<T> packed_lower(size), packed_upper(size);
  pack_rows<T>(lower, n.batch, n.in_features, T(1), threads_for(n), packed_lower.get());
  pack_rows<T>(upper, n.batch, n.in_features, T(1), threads_for(n), packed_upper.get());
  const auto run = [&]<int C>() {
    for_each_block(n, C * kLanes<T>, [&](int64_t column, int64_t first_tile, int64_t stop_tile) {
      interval_block<T, C>(packed_lower.get(), packed_upper.get(), weight, distance_lower,
                           distance_upper, n, column, first_tile, stop_tile);
    });
  };
  if (n.out_features <= kLanes<T>)
    run.template operator()<1>();
  else
    run.template operator()<kVectors>();
  // Minima and maxima pass a NaN by: one in the rows, or of ∞ − ∞ in a feature of both.
  const int threads = threads_for(n);
  const RowScan<T> scan_l(lower, n.batch, n.in_features, threads),
      scan_u(upper, n.batch, n.in_features, threads),
      scan_w(weight, n.out_features, n.in_features, threads);
  if (scan_w.all_finite && scan_l.all_finite && scan_u.all_finite) return;
  for (int64_t b = 0; b < n.batch; ++b)
    for (int64_t j = 0; j < n.out_features; ++j) {
      const uint8_t of_box = scan_l.kind[b] > scan_u.kind[b] ? scan_l.kind[b] : scan_u.kind[b];
      const T *l = lower + b * n.in_features, *u = upper + b * n.in_features,
              *w = weight + j * n.in_features;
      if (of_box == kHasNan || scan_w.kind[j] == kHasNan ||
          (of_box == kHasInfinity && scan_w.kind[j] == kHasInfinity &&
           meet_in_infinity<T>(l, u, w, n.in_features)))
        distance_lower[b * n.out_features + j] = distance_upper[b * n.out_features + j] =
            std::numeric_limits<T>::quiet_NaN();
    }
}

}  // namespace linfdist::LINFDIST_ISA
