// The numeric core of ‖x − w‖_p that every kernel shares: integer powers by repeated squaring, and
// below which size a term no longer counts.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define LINFDIST_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define LINFDIST_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace linfdist {

// v^P for P ≥ 0, V a scalar or a vector.
template <int P, class V>
LINFDIST_HOST_DEVICE V integer_power(V v) {
  if constexpr (P == 0) {
    return v * 0 + 1;
  } else if constexpr (P == 1) {
    return v;
  } else {
    const V half = integer_power<P / 2>(v);
    if constexpr (P % 2 == 0)
      return half * half;
    else
      return half * half * v;
  }
}

// 2^f for |f| ≤ 1/2, c0 + c1 f + …, fitted in relative error: 8e-8.
struct Exp2 {
  static constexpr float c0 = 1.0000000710f, c1 = 0.6931469492f, c2 = 0.2402212175f,
                         c3 = 0.0555074262f, c4 = 0.0096754597f, c5 = 0.0013266970f;
};

// A term of the sum Σ (|d_i| / max)^p below 2^cutoff is skipped: it cannot change a sum that is at
// least 1, nor can a million of them by more than 1e-6 in float.
template <class T>
constexpr double kForwardCutoff = sizeof(T) == 4 ? -40.0 : -80.0;

// A gradient entry below 2^cutoff of its pair's largest possible one is returned as 0.
template <class T>
constexpr double kBackwardCutoff = sizeof(T) == 4 ? -64.0 : -512.0;

// Where every term is wanted.
template <class T>
constexpr double kLeastCutoff = sizeof(T) == 4 ? -125.0 : -1000.0;

// The ratio r below which r^q < 2^cutoff.
LINFDIST_HOST_DEVICE double ratio_cutoff(double q, double cutoff) {
  return q > 0 ? std::exp2(cutoff / q) : 0.0;
}

}  // namespace linfdist
