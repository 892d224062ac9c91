// Device functions that several kernels share.
#pragma once

#include <cfloat>

#include "cuda/device.cuh"
#include "powers.h"

namespace linfdist::cuda {

constexpr double kLog2E = 1.4426950408889634;

template <class T>
constexpr T kSmallest = sizeof(T) == 4 ? T(4 * FLT_MIN) : T(4 * DBL_MIN);  // its inverse is finite

// r^q: P > 0 is an integer power by squaring, P = 0 a real one.
template <int P, class T>
__device__ __forceinline__ T power(T r, T q) {
  if constexpr (P > 0)
    return integer_power<P>(r);
  else if constexpr (sizeof(T) == 4)
    return exp2f(q * log2f(r));
  else
    return exp2(q * log2(r));
}

// ‖x − w‖_p by two passes over the pair, for any values: the largest difference, then the sum of
// powers in its unit. What the fast kernels call where their sums left the range of float.
template <class T>
__device__ __noinline__ T careful_norm(const T* x, const T* w, int64_t length, T p) {
  T top = 0;
  for (int64_t k = 0; k < length; ++k) {
    const T d = fabs(x[k] - w[k]);
    if (d > top || d != d) top = d;
    if (top != top) return top;
  }
  if (!(top > 0) || isinf(top)) return top;  // the norm already
  T sum = 0;
  for (int64_t k = 0; k < length; ++k) sum += power<0>(fabs(x[k] - w[k]) / top, p);
  return top * power<0>(sum, T(1) / p);
}

// 2^y = q · scale for y < 127, 0 below −126.5, on the pipe of multiplications: the
// special-function unit has an eighth of its rate. NaN gives NaN in q.
struct Split {
  float q, scale;
};
__device__ __forceinline__ Split exp2_split(float y) {
  constexpr float kRound = 12582912.f + 127.f;  // 1.5 · 2^23 and the bias of float's exponent
  y = max_nan(y, -127.f);                       // whose exponent field is 0: scale is an exact 0
  const float rounded = y + kRound;
  const float f = y - (rounded - kRound);
  float q = fmaf(Exp2::c5, f, Exp2::c4);
  q = fmaf(q, f, Exp2::c3);
  q = fmaf(q, f, Exp2::c2);
  q = fmaf(q, f, Exp2::c1);
  q = fmaf(q, f, Exp2::c0);
  return {q, __int_as_float(__float_as_int(rounded) << 23)};
}

}  // namespace linfdist::cuda
