// ‖x − w‖_p for all pairs of a sample and a neuron.
//
// Cost per pair, in vector instructions (AVX-512; AVX2 one more for p = ∞): p = ∞ 2 (subtract,
// maximum of absolutes), p = 8 4 (subtract, two squarings, one fused), real p about 24 beside the
// pass that finds the maximum. Integer p up to 8 needs no maximum: inputs are scaled by one power of
// two, and the rare pair whose sum underflows is computed again by itself.
#pragma once

#include "cpu/blocks.h"
#include "cpu/simd_power.h"

namespace linfdist::LINFDIST_ISA {

// One pair, in doubles, right for every input: infinities, NaN, underflow.
template <class T>
T careful_distance(const T* x, const T* w, int64_t length, double p) {
  double top = 0, sum = 0;
  for (int64_t i = 0; i < length; ++i) {
    const double d = std::fabs(double(x[i]) - double(w[i]));
    if (std::isnan(d)) return std::numeric_limits<T>::quiet_NaN();
    top = d > top ? d : top;
  }
  if (top == 0 || std::isinf(top)) return T(top);
  for (int64_t i = 0; i < length; ++i)
    sum += std::pow(std::fabs(double(x[i]) - double(w[i])) / top, p);
  return T(top * std::pow(sum, 1 / p));
}

// The first i in [first, length) with |x_i − w_i| = distance.
template <class T>
int32_t first_index(const T* x, const T* w, int64_t first, int64_t length, T distance) {
  const Vec<T> wanted = broadcast<T>(distance);
  constexpr int vectors = kIndexDepth / kLanes<T>;
  if constexpr (vectors * kLanes<T> == 64) {  // a whole block at once: no branch to mispredict
    if (length - first == kIndexDepth) {
      uint64_t found = 0;
      for (int v = 0; v < vectors; ++v) {
        const int64_t i = first + v * kLanes<T>;
        found |= uint64_t(lane_bits<T>(equal<T>(abs<T>(load<T>(x + i) - load<T>(w + i)), wanted)))
                 << (v * kLanes<T>);
      }
      return int32_t(first + (found ? __builtin_ctzll(found) : 0));
    }
  }
  for (int64_t i = first; i < length; ++i)
    if (std::fabs(x[i] - w[i]) == distance) return int32_t(i);
  return 0;  // of a NaN, which is looked for by itself
}

// The first i whose difference is NaN; there is one.
template <class T>
int32_t first_nan(const T* x, const T* w, int64_t length) {
  int64_t i = 0;
  while (i < length && !std::isnan(x[i] - w[i])) ++i;
  return int32_t(i);
}

template <class T, int C>
struct ForwardBlock {
  static constexpr int width = C * kLanes<T>, tile_size = kRows * width;

  const T *x, *weight, *packed;
  T scale;
  Sizes n;
  int64_t column, first_tile, stop_tile;
  T* panel;

  int64_t tiles() const { return stop_tile - first_tile; }

  // Accumulates `make_op(tile)` over all features into [tile][kRows][width], `deep` at a time.
  template <class MakeOp, class AfterDepth>
  void accumulate(T* accumulators, int64_t deep, const MakeOp& make_op,
                  const AfterDepth& after) const {
    for (int64_t k = 0; k < n.in_features; k += deep) {
      const int64_t depth = smaller(deep, n.in_features - k);
      pack_panel<T>(weight, n, column, width, k, depth, scale, panel);
      for (int64_t t = 0; t < tiles(); ++t) {
        const T* rows = packed + ((first_tile + t) * n.in_features + k) * kRows;
        run_tile<T, C>(rows, panel, depth, accumulators + t * tile_size, make_op(t));
        after(t, k);
      }
    }
  }

  // visit(sample, neuron, place in the accumulators) for every pair inside the matrix.
  template <class Visit>
  void for_each_pair(const Visit& visit) const {
    for (int64_t row = first_tile * kRows; row < smaller(n.batch, stop_tile * kRows); ++row)
      for (int64_t j = column; j < smaller(n.out_features, column + width); ++j)
        visit(row, j, (row - first_tile * kRows) * width + (j - column));
  }
};

template <class T, int C>
void maximum_block(const ForwardBlock<T, C>& block, T* top, T* distance, int32_t* index) {
  constexpr int tile_size = block.tile_size;
  const int64_t size = block.tiles() * tile_size;
  std::memset(top, 0, size * sizeof(T));
  const auto op = [](int64_t) {
    return [](Vec<T>(&a)[C], Vec<T>(&d)[C], int) {
      for (int c = 0; c < C; ++c) a[c] = max_abs<T>(a[c], d[c]);
    };
  };
  if (!index) {
    block.accumulate(top, kDepth, op, [](int64_t, int64_t) {});
  } else {
    // Remember the depth block in which the maximum last grew; the index lies in there.
    Buffer<T> best(size);
    Buffer<int32_t> depth_block(size);
    std::memset(best.get(), 0, size * sizeof(T));
    std::memset(depth_block.get(), 0, size * sizeof(int32_t));
    block.accumulate(top, kIndexDepth, op, [&](int64_t t, int64_t k) {
      T *const best_tile = best.get() + t * tile_size, *const top_tile = top + t * tile_size;
      int32_t* const block_tile = depth_block.get() + t * tile_size;
      for (int i = 0; i < tile_size; ++i) {
        block_tile[i] = top_tile[i] > best_tile[i] ? int32_t(k) : block_tile[i];
        best_tile[i] = top_tile[i];
      }
    });
    const Sizes n = block.n;
    block.for_each_pair([&](int64_t row, int64_t j, int64_t at) {
      const int64_t k = depth_block[at];
      index[row * n.out_features + j] =
          first_index<T>(block.x + row * n.in_features, block.weight + j * n.in_features, k,
                         smaller(n.in_features, k + kIndexDepth), top[at]);
    });
  }
  if (distance)
    block.for_each_pair([&](int64_t row, int64_t j, int64_t at) {
      distance[row * block.n.out_features + j] = top[at];
    });
}

// s^(1/P) for P a power of two.
template <int P, class T>
LINFDIST_INLINE T integer_root(T s) {
  for (int power = P; power > 1; power /= 2) s = std::sqrt(s);
  return s;
}

template <int P, class T, int C>
void integer_power_block(const ForwardBlock<T, C>& block, T* sum, T* distance) {
  std::memset(sum, 0, block.tiles() * block.tile_size * sizeof(T));
  block.accumulate(
      sum, kDepth,
      [](int64_t) {
        return [](Vec<T>(&a)[C], Vec<T>(&d)[C], int) {
          for (int c = 0; c < C; ++c) {
            if constexpr (P == 1) {
              a[c] += abs<T>(d[c]);
            } else {
              const Vec<T> half = integer_power<P / 2>(d[c]);
              a[c] += half * half;
            }
          }
        };
      },
      [](int64_t, int64_t) {});
  const Sizes n = block.n;
  const T underflow = std::sqrt(std::numeric_limits<T>::min());
  const T most = std::numeric_limits<T>::max();  // no scale brings all pairs below it
  block.for_each_pair([&](int64_t row, int64_t j, int64_t at) {
    distance[row * n.out_features + j] =
        sum[at] > underflow && sum[at] <= most
            ? integer_root<P>(sum[at]) / block.scale
            : careful_distance<T>(block.x + row * n.in_features, block.weight + j * n.in_features,
                                  n.in_features, P);
  });
}

template <class T, int C>
void real_power_block(const ForwardBlock<T, C>& block, T* sum, T* distance, double p) {
  constexpr int tile_size = block.tile_size;
  const int64_t size = block.tiles() * tile_size;
  Buffer<T> top(size), inverse(size);
  maximum_block<T, C>(block, top.get(), nullptr, nullptr);
  for (int64_t i = 0; i < size; ++i) inverse[i] = T(1) / top[i];
  std::memset(sum, 0, size * sizeof(T));
  const Power<T> power(p, kForwardCutoff<T>), root(1 / p, kLeastCutoff<T>);
  block.accumulate(
      sum, kDepth,
      [&](int64_t t) {
        const T* scales = inverse.get() + t * tile_size;
        return [=](Vec<T>(&a)[C], Vec<T>(&d)[C], int at) {
          for (int c = 0; c < C; ++c) d[c] *= load<T>(scales + at + c * kLanes<T>);
          if (!raise(power, d)) return;
          for (int c = 0; c < C; ++c) a[c] += d[c];
        };
      },
      [](int64_t, int64_t) {});
  const Sizes n = block.n;
  for (int64_t i = 0; i < size; i += kLanes<T>) {
    Vec<T> s[1] = {T(1) /
                   max<T>(load<T>(sum + i), broadcast<T>(T(1)))};  // raise() wants it below 1
    raise(root, s);
    store<T>(sum + i, load<T>(top.get() + i) / s[0]);
  }
  const T smallest = std::numeric_limits<T>::min() * 4;
  block.for_each_pair([&](int64_t row, int64_t j, int64_t at) {
    distance[row * n.out_features + j] =
        top[at] >= smallest
            ? sum[at]
            : careful_distance<T>(block.x + row * n.in_features, block.weight + j * n.in_features,
                                  n.in_features, p);
  });
}

template <class T, int C>
void forward_blocks(const T* x, const T* weight, const T* packed, T scale, T* distance,
                    int32_t* index, Sizes n, double p) {
  using Block = ForwardBlock<T, C>;
  for_each_block(n, Block::width, [&](int64_t column, int64_t first_tile, int64_t stop_tile) {
    Buffer<T> panel(kDepth * Block::width);
    Buffer<T> tiles((stop_tile - first_tile) * Block::tile_size);
    const Block block{x, weight, packed, scale, n, column, first_tile, stop_tile, panel.get()};
    T* work = tiles.get();
    if (std::isinf(p))
      maximum_block<T, C>(block, work, distance, index);
    else if (p == 1)
      integer_power_block<1>(block, work, distance);
    else if (p == 2)
      integer_power_block<2>(block, work, distance);
    else if (p == 4)
      integer_power_block<4>(block, work, distance);
    else if (p == 8)
      integer_power_block<8>(block, work, distance);
    else
      real_power_block<T, C>(block, work, distance, p);
  });
}

constexpr bool is_fast_integer(double p) { return p == 1 || p == 2 || p == 4 || p == 8; }

// A power of two that brings |x − w| below 1, so that an eighth power neither over- nor underflows.
template <class T>
T integer_scale(T largest_x, T largest_weight, double p) {
  const T range = largest_x + largest_weight;
  if (!is_fast_integer(p) || !(range > 0) || std::isinf(range)) return 1;
  const int exponent = std::ilogb(range) + 1;
  return std::ldexp(T(1), -(exponent < 120 ? (exponent > -120 ? exponent : -120) : 120));
}

template <class T>
void forward(const T* x, const T* weight, T* distance, int32_t* index, Sizes n, double p) {
  const int threads = threads_for(n);
  const RowScan<T> scan_x(x, n.batch, n.in_features, threads),
      scan_w(weight, n.out_features, n.in_features, threads);
  const T scale = integer_scale<T>(scan_x.largest, scan_w.largest, p);
  Buffer<T> packed(ceil_div(n.batch, kRows) * kRows * n.in_features);
  pack_rows<T>(x, n.batch, n.in_features, scale, threads, packed.get());
  if (n.out_features <= kLanes<T>)
    forward_blocks<T, 1>(x, weight, packed.get(), scale, distance, index, n, p);
  else
    forward_blocks<T, kVectors>(x, weight, packed.get(), scale, distance, index, n, p);
  if (scan_x.all_finite && scan_w.all_finite) return;
  for (int64_t b = 0; b < n.batch; ++b)
    for (int64_t j = 0; j < n.out_features; ++j) {
      const uint8_t a = scan_x.kind[b], c = scan_w.kind[j];
      if (a == kFinite && c == kFinite) continue;
      T& out = distance[b * n.out_features + j];
      const T *row = x + b * n.in_features, *neuron = weight + j * n.in_features;
      if (a == kHasNan || c == kHasNan)
        out = std::numeric_limits<T>::quiet_NaN();
      else if (a != c)
        out = std::numeric_limits<T>::infinity();
      else
        out = careful_distance<T>(row, neuron, n.in_features, p);
      if (index)
        index[b * n.out_features + j] = std::isnan(out)
                                            ? first_nan<T>(row, neuron, n.in_features)
                                            : first_index<T>(row, neuron, 0, n.in_features, out);
    }
}

}  // namespace linfdist::LINFDIST_ISA
