// Factors of the two matrix products that make f_t (lse_distance.py), and the gradient's last step.
//
// lse_factors: for a row r about the centre c, v = r − c and reach = max |v|,
//   factors[:length] = max(2^least, 2^(s (v − reach))),  s = t log2(e);  factors[length:] the same
// of −v. A row of a layer's features stays in the first-level cache between the maximum and the
// powers: memory sees one read of the rows and one write of the factors. The reach and the factors of
// a row that is not finite are NaN. Cost per feature, in vector instructions: 3 for the maximum, some
// 24 for the two powers.
//
// lse_combine: grad = products[:length] factors[length:] − products[length:] factors[:length].
#pragma once

#include "cpu/blocks.h"
#include "cpu/simd_power.h"

namespace linfdist::LINFDIST_ISA {

constexpr int64_t kFewFeatures = 1 << 15;  // of all rows: fewer are done by one thread

inline int threads_for_features(int64_t count, int64_t length) {
  return count * length < kFewFeatures ? 1 : omp_get_max_threads();
}

// The first `lanes` lanes; the others are 0.
template <class T>
LINFDIST_INLINE Vec<T> load_some(const T* from, int64_t lanes) {
  Vec<T> v{};
  std::memcpy(&v, from, lanes * sizeof(T));
  return v;
}

template <class T>
LINFDIST_INLINE void store_some(T* to, Vec<T> v, int64_t lanes) {
  std::memcpy(to, &v, lanes * sizeof(T));
}

template <class T>
void lse_factors(const T* rows, const T* centre, T* factors, T* reach, int64_t count,
                 int64_t length, double t, double least) {
  constexpr int64_t lanes = kLanes<T>;
  const T scale = T(t * 1.4426950408889634), floor = T(least);
  const int64_t whole = length / lanes * lanes, rest = length - whole;
#pragma omp parallel for schedule(static) num_threads(threads_for_features(count, length))
  for (int64_t row = 0; row < count; ++row) {
    const T* const values = rows + row * length;
    T *const plus = factors + row * 2 * length, *const minus = plus + length;
    Vec<T> widest{}, zero{};
    const auto scan = [&](Vec<T> v) {
      widest = max_abs<T>(widest, v);
      zero += v * T(0);
    };
    for (int64_t i = 0; i < whole; i += lanes) scan(load<T>(values + i) - load<T>(centre + i));
    if (rest) scan(load_some<T>(values + whole, rest) - load_some<T>(centre + whole, rest));
    T most = 0, nan = 0;
    for (int lane = 0; lane < lanes; ++lane) {
      most = widest[lane] > most ? widest[lane] : most;
      nan += zero[lane];
    }
    reach[row] = most + nan;
    if (!std::isfinite(reach[row])) {
      reach[row] = std::numeric_limits<T>::quiet_NaN();
      for (int64_t i = 0; i < 2 * length; ++i) plus[i] = reach[row];
      continue;
    }
    const auto powers = [&](Vec<T> v, Vec<T>(&y)[2]) {
      y[0] = max<T>((v - most) * scale, broadcast<T>(floor));
      y[1] = max<T>((-v - most) * scale, broadcast<T>(floor));
      exp2_each<2>(broadcast<T>(floor - 1), y);
    };
    Vec<T> y[2];
    for (int64_t i = 0; i < whole; i += lanes) {
      powers(load<T>(values + i) - load<T>(centre + i), y);
      store<T>(plus + i, y[0]);
      store<T>(minus + i, y[1]);
    }
    if (rest) {
      powers(load_some<T>(values + whole, rest) - load_some<T>(centre + whole, rest), y);
      store_some<T>(plus + whole, y[0], rest);
      store_some<T>(minus + whole, y[1], rest);
    }
  }
}

template <class T>
void lse_combine(const T* products, const T* factors, T* grad, int64_t count, int64_t length) {
#pragma omp parallel for schedule(static) num_threads(threads_for_features(count, length))
  for (int64_t row = 0; row < count; ++row) {
    const T *const p = products + row * 2 * length, *const f = factors + row * 2 * length;
    T* const to = grad + row * length;
    for (int64_t i = 0; i < length; ++i) to[i] = p[i] * f[length + i] - p[length + i] * f[i];
  }
}

}  // namespace linfdist::LINFDIST_ISA
