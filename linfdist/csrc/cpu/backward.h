// Both gradients of Σ_bj g_bj ‖x_b − w_j‖_p from one evaluation of the powers:
//   t_bji = g_bj (|d| / distance)^(p−1) sign(d),  d = x_bi − w_ji;   ∂x_bi = Σ_j t,  ∂w_ji = −Σ_b t.
//
// Lanes are features. A thread owns blocks of features for all samples and neurons, so it alone
// writes their gradients: no copies, no atomics, the same sums on any number of threads.
// Cost per pair, in vector instructions: p = 8 7, real p about 27. At p = ∞ only the recorded index
// of each pair is touched.
#pragma once

#include <stdexcept>
#include <string>

#include "cpu/forward.h"

namespace linfdist::LINFDIST_ISA {

constexpr int kSamples = 4;        // samples whose gradients stay in registers
constexpr int64_t kNeurons = 512;  // neurons whose slices of weight and gradient stay in cache

// Copies features first .. first + lanes of `count` rows into [row][lanes], zero past the end.
template <class T>
void gather_slice(const T* rows, int64_t count, int64_t length, int64_t first, T scale, T* slice) {
  const int64_t inside = smaller(kLanes<T>, length - first);
  for (int64_t row = 0; row < count; ++row)
    for (int64_t i = 0; i < kLanes<T>; ++i)
      slice[row * kLanes<T> + i] = i < inside ? rows[row * length + first + i] * scale : T(0);
}

template <class T>
void scatter_slice(const T* slice, int64_t count, int64_t length, int64_t first, T* rows) {
  const int64_t inside = smaller(kLanes<T>, length - first);
  for (int64_t row = 0; row < count; ++row)
    for (int64_t i = 0; i < inside; ++i)
      rows[row * length + first + i] = slice[row * kLanes<T> + i];
}

// term(d, at, gx, gw) adds one neuron's terms for `samples` samples.
template <class T, int samples, class Term>
LINFDIST_INLINE void backward_tile(const T* x, const T* w, int64_t pair, int64_t neurons, T* grad_x,
                                   T* grad_w, const Term& term) {
  Vec<T> row[samples], gx[samples];
#pragma GCC unroll 4
  for (int r = 0; r < samples; ++r) {
    row[r] = load<T>(x + r * kLanes<T>);
    gx[r] = load<T>(grad_x + r * kLanes<T>);
  }
  for (int64_t j = 0; j < neurons; ++j) {
    const Vec<T> weight = load<T>(w + j * kLanes<T>);
    Vec<T> d[samples], gw = load<T>(grad_w + j * kLanes<T>);
#pragma GCC unroll 4
    for (int r = 0; r < samples; ++r) d[r] = row[r] - weight;
    term(d, pair + j, gx, gw);
    store<T>(grad_w + j * kLanes<T>, gw);
  }
#pragma GCC unroll 4
  for (int r = 0; r < samples; ++r) store<T>(grad_x + r * kLanes<T>, gx[r]);
}

template <class T, class Term>
void backward_terms(const T* x, const T* weight, T scale, T* grad_x, T* grad_weight, Sizes n,
                    const Term& term) {
  const int64_t slices = ceil_div(n.in_features, kLanes<T>);
#pragma omp parallel num_threads(threads_for(n))
  {
    Buffer<T> x_slice(n.batch * kLanes<T>), gx_slice(n.batch * kLanes<T>);
    Buffer<T> w_slice(kNeurons * kLanes<T>), gw_slice(kNeurons * kLanes<T>);
#pragma omp for schedule(dynamic)
    for (int64_t slice = 0; slice < slices; ++slice) {
      const int64_t first = slice * kLanes<T>;
      gather_slice<T>(x, n.batch, n.in_features, first, scale, x_slice.get());
      std::memset(gx_slice.get(), 0, n.batch * kLanes<T> * sizeof(T));
      for (int64_t j = 0; j < n.out_features; j += kNeurons) {
        const int64_t neurons = smaller(kNeurons, n.out_features - j);
        gather_slice<T>(weight + j * n.in_features, neurons, n.in_features, first, scale,
                        w_slice.get());
        std::memset(gw_slice.get(), 0, neurons * kLanes<T> * sizeof(T));
        int64_t b = 0;
        for (; b + kSamples <= n.batch; b += kSamples)
          backward_tile<T, kSamples>(x_slice.get() + b * kLanes<T>, w_slice.get(),
                                     b * n.out_features + j, neurons,
                                     gx_slice.get() + b * kLanes<T>, gw_slice.get(), term);
        for (; b < n.batch; ++b)
          backward_tile<T, 1>(x_slice.get() + b * kLanes<T>, w_slice.get(), b * n.out_features + j,
                              neurons, gx_slice.get() + b * kLanes<T>, gw_slice.get(), term);
        for (int64_t i = 0; i < neurons * kLanes<T>; ++i) gw_slice[i] = -gw_slice[i];
        scatter_slice<T>(gw_slice.get(), neurons, n.in_features, first,
                         grad_weight + j * n.in_features);
      }
      scatter_slice<T>(gx_slice.get(), n.batch, n.in_features, first, grad_x);
    }
  }
}

// Where a distance is not finite, the gradients of its sample and of its neuron are NaN.
template <class T>
void spread_nan(const T* distance, T* grad_x, T* grad_weight, Sizes n) {
  const int64_t pairs = n.batch * n.out_features;
  T zero = 0;
#pragma omp parallel for simd reduction(+ : zero) \
    num_threads(threads_for({n.batch, n.out_features, 16}))
  for (int64_t i = 0; i < pairs; ++i) zero += distance[i] * T(0);
  if (zero == 0) return;
  const auto spread = [&](int64_t rows, int64_t row_step, int64_t others, int64_t step, T* grad) {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t other = 0; other < others; ++other)
        if (!std::isfinite(distance[row * row_step + other * step])) {
          for (int64_t i = 0; i < n.in_features; ++i)
            grad[row * n.in_features + i] = std::numeric_limits<T>::quiet_NaN();
          break;
        }
  };
  spread(n.batch, n.out_features, n.out_features, 1, grad_x);
  spread(n.out_features, 1, n.batch, n.out_features, grad_weight);
}

// False, and nothing computed, where distance^(P−1) under- or overflows for some pair.
template <int P, class T>
bool backward_integer(const T* grad, const T* x, const T* weight, const T* distance, T scale,
                      T* grad_x, T* grad_weight, Sizes n) {
  const int64_t pairs = n.batch * n.out_features;
  const T smallest = std::sqrt(std::numeric_limits<T>::min());
  const T most = std::numeric_limits<T>::max();
  Buffer<T> coefficient(pairs);  // g / (scale · distance)^(P−1)
  for (int64_t i = 0; i < pairs; ++i) {
    const T power = integer_power<P - 1>(distance[i] * scale);
    if (distance[i] != 0 && !(power > smallest && power <= most)) return false;
    coefficient[i] = distance[i] != 0 ? grad[i] / power : T(0);
  }
  const T* c = coefficient.get();
  const int64_t stride = n.out_features;
  backward_terms<T>(x, weight, scale, grad_x, grad_weight, n,
                    [=]<int N>(Vec<T>(&d)[N], int64_t at, Vec<T>(&gx)[N], Vec<T>& gw) {
                      for (int r = 0; r < N; ++r) {
                        Vec<T> t;
                        if constexpr (P == 1)
                          t = d[r] != 0 ? with_sign_of<T>(d[r], broadcast<T>(T(1))) : Vec<T>{};
                        else
                          t = integer_power<P - 1>(d[r]);
                        t *= c[at + r * stride];
                        gx[r] += t;
                        gw += t;
                      }
                    });
  return true;
}

template <class T>
void backward_real(const T* grad, const T* x, const T* weight, const T* distance, T* grad_x,
                   T* grad_weight, Sizes n, double p) {
  const int64_t pairs = n.batch * n.out_features;
  Buffer<T> inverse(pairs);
  for (int64_t i = 0; i < pairs; ++i)
    inverse[i] = distance[i] >= std::numeric_limits<T>::min() * 4 ? T(1) / distance[i] : T(0);
  const T* scales = inverse.get();
  const Power<T> power(p - 1, kBackwardCutoff<T>);
  const int64_t stride = n.out_features;
  backward_terms<T>(x, weight, T(1), grad_x, grad_weight, n,
                    [=]<int N>(Vec<T>(&d)[N], int64_t at, Vec<T>(&gx)[N], Vec<T>& gw) {
                      Vec<T> ratio[N];
                      for (int r = 0; r < N; ++r) ratio[r] = d[r] * scales[at + r * stride];
                      if (!raise(power, ratio)) return;
                      for (int r = 0; r < N; ++r) {
                        const Vec<T> t = with_sign_of<T>(d[r], ratio[r]);
                        gx[r] += t * grad[at + r * stride];
                        gw += t * grad[at + r * stride];
                      }
                    });
}

// g sign(d); a NaN stays.
template <class T>
LINFDIST_INLINE T signed_by(T d, T grad) {
  return d > 0 ? grad : d < 0 ? -grad : d == 0 ? T(0) : d;
}

template <class T>
void backward_maximum(const T* grad, const T* x, const T* weight, const int32_t* index, T* grad_x,
                      T* grad_weight, Sizes n) {
  std::memset(grad_x, 0, n.batch * n.in_features * sizeof(T));
  std::memset(grad_weight, 0, n.out_features * n.in_features * sizeof(T));
  Buffer<T> signed_grad(n.batch * n.out_features);
  const auto inside = [&](int32_t i) { return i >= 0 && i < n.in_features; };
  bool all_inside = true;
  // Work here is a pair, not a pair times its features.
#pragma omp parallel num_threads(threads_for({n.batch, n.out_features, 16}))
  {
#pragma omp for schedule(static) reduction(&& : all_inside)
    for (int64_t b = 0; b < n.batch; ++b)
      for (int64_t j = 0; j < n.out_features; ++j) {
        const int64_t at = b * n.out_features + j, i = index[at];
        if (!inside(index[at])) {
          all_inside = false;
          continue;
        }
        const T d = x[b * n.in_features + i] - weight[j * n.in_features + i];
        signed_grad[at] = signed_by(d, grad[at]);
        grad_x[b * n.in_features + i] += signed_grad[at];
      }
    constexpr int64_t few = 16;  // neurons whose rows of the gradient stay in cache
#pragma omp for schedule(static)
    for (int64_t first = 0; first < n.out_features; first += few)
      for (int64_t b = 0; b < n.batch; ++b)
        for (int64_t j = first; j < smaller(n.out_features, first + few); ++j) {
          const int64_t at = b * n.out_features + j;
          if (inside(index[at])) grad_weight[j * n.in_features + index[at]] -= signed_grad[at];
        }
  }
  if (!all_inside)
    throw std::invalid_argument("backward_with_index: index must be from 0 to " +
                                std::to_string(n.in_features - 1) + "; got others.");
}

template <class T>
void backward(const T* grad, const T* x, const T* weight, const T* distance, const int32_t* index,
              T* grad_x, T* grad_weight, Sizes n, double p) {
  if (std::isinf(p)) return backward_maximum<T>(grad, x, weight, index, grad_x, grad_weight, n);
  if (is_fast_integer(p)) {
    const int threads = threads_for(n);
    // At p = 1 only signs count, which a scale could lose.
    const T scale =
        p == 1 ? T(1)
               : integer_scale<T>(
                     RowScan<T>(x, n.batch, n.in_features, threads).largest,
                     RowScan<T>(weight, n.out_features, n.in_features, threads).largest, p);
    const bool done =
        p == 1   ? backward_integer<1>(grad, x, weight, distance, scale, grad_x, grad_weight, n)
        : p == 2 ? backward_integer<2>(grad, x, weight, distance, scale, grad_x, grad_weight, n)
        : p == 4 ? backward_integer<4>(grad, x, weight, distance, scale, grad_x, grad_weight, n)
                 : backward_integer<8>(grad, x, weight, distance, scale, grad_x, grad_weight, n);
    if (done) return;  // then every distance is finite
  }
  backward_real<T>(grad, x, weight, distance, grad_x, grad_weight, n, p);
  spread_nan<T>(distance, grad_x, grad_weight, n);
}

}  // namespace linfdist::LINFDIST_ISA
