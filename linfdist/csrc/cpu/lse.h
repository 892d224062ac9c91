// f_t = top + log(total) / t with top = max_i |d_i|, total = Σ_i e^(t(|d_i| − top)) + e^(−t(|d_i| + top)),
// d = x − w, for all pairs and any t: no exponent is above 0. And its gradients,
//   t_bji = g_bj sign(d) (e^(t(|d| − top)) − e^(−t(|d| + top))) / total;   ∂x_bi = Σ_j t,  ∂w_ji = −Σ_b t.
//
// This is what runs where t is too large for products of factors (lse_distance.py). Cost per pair, in
// vector instructions: 2 for the maximum, 6 where no lane's term counts, and else about 13 for each
// exponential; the second counts only where t · top is small.
#pragma once

#include "cpu/backward.h"

namespace linfdist::LINFDIST_ISA {

// Exponents of 2, −126 ≤ lowest: a term 2^y with y ≤ lowest does not count.
template <class T>
struct Temperature {
  T scale;  // t log2(e)
  Vec<T> lowest;

  Temperature(double t, double cutoff)
      : scale(T(t * 1.4426950408889634)), lowest(broadcast<T>(T(cutoff))) {}

  template <int N>
  LINFDIST_INLINE bool counts(const Vec<T> (&y)[N]) const {
    Vec<T> most = lowest;  // a NaN is passed by, as in raise()
    for (int n = 0; n < N; ++n) most = max<T>(y[n], most);
    return lane_bits<T>(greater<T>(most, lowest)) != 0;
  }

  // near = 2^(scale (|d| − top)), far = 2^(−scale (|d| + top)). False if none of them counts.
  template <int N>
  LINFDIST_INLINE bool terms(const Vec<T> (&d)[N], const Vec<T> (&top)[N], Vec<T> (&near)[N],
                             Vec<T> (&far)[N]) const {
    LINFDIST_EACH(near[n] = (abs<T>(d[n]) - top[n]) * scale)
    if (!counts(near)) return false;
    LINFDIST_EACH(far[n] = (abs<T>(d[n]) + top[n]) * -scale)
    exp2_each(lowest, near);
    if (counts(far)) {
      exp2_each(lowest, far);
    } else {
      LINFDIST_EACH(far[n] = Vec<T>{})
    }
    return true;
  }
};

template <class T, int C>
void lse_block(const ForwardBlock<T, C>& block, T* distance, T* totals, double t) {
  constexpr int tile_size = block.tile_size;
  const int64_t size = block.tiles() * tile_size;
  Buffer<T> tops(size), sums(size);
  maximum_block<T, C>(block, tops.get(), nullptr, nullptr);
  std::memset(sums.get(), 0, size * sizeof(T));
  const Temperature<T> temperature(t, kForwardCutoff<T>);
  block.accumulate(
      sums.get(), kDepth,
      [&](int64_t tile) {
        const T* top_tile = tops.get() + tile * tile_size;
        return [=](Vec<T>(&a)[C], Vec<T>(&d)[C], int at) {
          Vec<T> top[C], near[C], far[C];
          for (int c = 0; c < C; ++c) top[c] = load<T>(top_tile + at + c * kLanes<T>);
          if (!temperature.terms(d, top, near, far)) return;
          for (int c = 0; c < C; ++c) a[c] += near[c] + far[c];
        };
      },
      [](int64_t, int64_t) {});
  block.for_each_pair([&](int64_t row, int64_t j, int64_t at) {
    const bool finite = std::isfinite(tops[at]);  // a difference can overflow
    totals[row * block.n.out_features + j] = finite ? sums[at] : tops[at];
    distance[row * block.n.out_features + j] =
        finite ? tops[at] + T(std::log(sums[at]) / t) : tops[at];
  });
}

template <class T>
void lse_forward(const T* x, const T* weight, T* distance, T* total, Sizes n, double t) {
  const int threads = threads_for(n);
  Buffer<T> packed(ceil_div(n.batch, kRows) * kRows * n.in_features);
  pack_rows<T>(x, n.batch, n.in_features, T(1), threads, packed.get());
  const auto run = [&]<int C>() {
    using Block = ForwardBlock<T, C>;
    for_each_block(n, Block::width, [&](int64_t column, int64_t first_tile, int64_t stop_tile) {
      Buffer<T> panel(kDepth * Block::width);
      lse_block<T, C>(
          {x, weight, packed.get(), T(1), n, column, first_tile, stop_tile, panel.get()}, distance,
          total, t);
    });
  };
  if (n.out_features <= kLanes<T>)
    run.template operator()<1>();
  else
    run.template operator()<kVectors>();
  // Maxima pass a NaN by, and ∞ − ∞ is one.
  const RowScan<T> scan_x(x, n.batch, n.in_features, threads),
      scan_w(weight, n.out_features, n.in_features, threads);
  if (scan_x.all_finite && scan_w.all_finite) return;
  for (int64_t b = 0; b < n.batch; ++b)
    for (int64_t j = 0; j < n.out_features; ++j)
      if (scan_x.kind[b] != kFinite || scan_w.kind[j] != kFinite)
        distance[b * n.out_features + j] =
            careful_distance<T>(x + b * n.in_features, weight + j * n.in_features, n.in_features,
                                std::numeric_limits<double>::infinity());
}

template <class T>
void lse_backward(const T* grad, const T* x, const T* weight, const T* total, T* grad_x,
                  T* grad_weight, Sizes n, double t) {
  const int64_t pairs = n.batch * n.out_features;
  Buffer<T> tops(pairs), shares(pairs);
  // The maxima bit for bit as the forward pass had them: its largest exponent is exactly 0 here too.
  forward<T>(x, weight, tops.get(), nullptr, n, std::numeric_limits<double>::infinity());
  for (int64_t i = 0; i < pairs; ++i) shares[i] = grad[i] / total[i];
  const T *top_of = tops.get(), *share_of = shares.get();
  const Temperature<T> temperature(t, kBackwardCutoff<T>);
  const int64_t stride = n.out_features;
  backward_terms<T>(x, weight, T(1), grad_x, grad_weight, n,
                    [=]<int N>(Vec<T>(&d)[N], int64_t at, Vec<T>(&gx)[N], Vec<T>& gw) {
                      Vec<T> top[N], near[N], far[N];
                      LINFDIST_EACH(top[n] = broadcast<T>(top_of[at + n * stride]))
                      if (!temperature.terms(d, top, near, far)) return;
                      for (int r = 0; r < N; ++r) {
                        const Vec<T> term =
                            with_sign_of<T>(d[r], near[r] - far[r]) * share_of[at + r * stride];
                        gx[r] += term;
                        gw += term;
                      }
                    });
  spread_nan<T>(top_of, grad_x, grad_weight, n);
}

}  // namespace linfdist::LINFDIST_ISA
