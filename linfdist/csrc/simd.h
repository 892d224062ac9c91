// Vectors of one instruction set, by the compiler's vector extension: one source makes AVX-512, AVX2
// and baseline (SSE2, NEON) code, as cpu_kernels.cpp is compiled once for each.
//
// Everything lives in a namespace named after the instruction set, so that the linker can never
// merge a function compiled for AVX-512 into the path of a machine without it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#define LINFDIST_VECTOR_BYTES 64
#elif defined(__AVX2__)
#include <immintrin.h>
#define LINFDIST_VECTOR_BYTES 32
#else
#define LINFDIST_VECTOR_BYTES 16
#endif

#define LINFDIST_INLINE inline __attribute__((always_inline))

namespace linfdist::LINFDIST_ISA {

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(LINFDIST_VECTOR_BYTES)));
  typedef int32_t bits __attribute__((vector_size(LINFDIST_VECTOR_BYTES)));
  static constexpr int32_t sign = INT32_MIN;
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(LINFDIST_VECTOR_BYTES)));
  typedef int64_t bits __attribute__((vector_size(LINFDIST_VECTOR_BYTES)));
  static constexpr int64_t sign = INT64_MIN;
};

template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
using Bits = typename VectorOf<T>::bits;  // also what a comparison returns: −1 where true
template <class T>
constexpr int kLanes = LINFDIST_VECTOR_BYTES / sizeof(T);

template <class T>
LINFDIST_INLINE Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class T>
LINFDIST_INLINE void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof v);
}

template <class T>
LINFDIST_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // x − 0 keeps every x, −0 too
}

// max and min compile to one instruction; of two NaN-free numbers they are exact.
template <class T>
LINFDIST_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

template <class T>
LINFDIST_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
  return a < b ? a : b;
}

template <class T>
LINFDIST_INLINE Vec<T> abs(Vec<T> v) {
  return (Vec<T>)((Bits<T>)v & ~VectorOf<T>::sign);
}

// `magnitude` (not negative) with the sign of `from`.
template <class T>
LINFDIST_INLINE Vec<T> with_sign_of(Vec<T> from, Vec<T> magnitude) {
  return (Vec<T>)((Bits<T>)magnitude | ((Bits<T>)from & VectorOf<T>::sign));
}

// max(a, |b|) for a ≥ 0.
template <class T>
LINFDIST_INLINE Vec<T> max_abs(Vec<T> a, Vec<T> b) {
  return max<T>(a, abs<T>(b));
}

#if defined(__AVX512DQ__)
constexpr int kAbsoluteMaximum = 0b1011;  // choose by absolute maximum, clear the sign
template <>
LINFDIST_INLINE Vec<float> max_abs<float>(Vec<float> a, Vec<float> b) {
  return _mm512_range_ps(a, b, kAbsoluteMaximum);
}
template <>
LINFDIST_INLINE Vec<double> max_abs<double>(Vec<double> a, Vec<double> b) {
  return _mm512_range_pd(a, b, kAbsoluteMaximum);
}
#endif

// One bit a lane, lane 0 lowest: where the comparison held.
template <class T>
LINFDIST_INLINE uint32_t lane_mask(Bits<T> comparison) {
#if defined(__AVX512DQ__)
  if constexpr (sizeof(T) == 4)
    return _mm512_movepi32_mask((__m512i)comparison);
  else
    return _mm512_movepi64_mask((__m512i)comparison);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return _mm256_movemask_ps((__m256)comparison);
  else
    return _mm256_movemask_pd((__m256d)comparison);
#else
  uint32_t mask = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) mask |= (comparison[lane] ? 1u : 0u) << lane;
  return mask;
#endif
}

// exp2(y) for −126 ≤ y ≤ 127; relative error below 2e-7. y = n + f, |f| ≤ 1/2, and a polynomial of
// degree 5 fitted to 2^f in relative error (8e-8).
LINFDIST_INLINE Vec<float> exp2(Vec<float> y) {
  constexpr float round_to_integer = 12582912.0f;  // 1.5 · 2^23
  const Vec<float> shifted = y + round_to_integer;
  const Vec<float> f = y - (shifted - round_to_integer);
  Vec<float> e = 0.0013266970f * f + 0.0096754597f;
  e = e * f + 0.0555074262f;
  e = e * f + 0.2402212175f;
  e = e * f + 0.6931469492f;
  e = e * f + 1.0000000710f;
  return (Vec<float>)((Bits<float>)e + ((Bits<float>)shifted << 23));
}

// log2(r) for normal r > 0; relative error below 4e-7 near 1, absolute below 1e-6 elsewhere.
// r = 2^n (1 + f), √½ ≤ 1 + f < √2, and f times a polynomial of degree 7 fitted to log2(1 + f)/f.
LINFDIST_INLINE Vec<float> log2(Vec<float> r) {
  constexpr int32_t sqrt_half = 0x3f3504f3;
  const Bits<float> exponent = ((Bits<float>)r - sqrt_half) >> 23;
  const Vec<float> f = (Vec<float>)((Bits<float>)r - (exponent << 23)) - 1.0f;
  Vec<float> q = -0.1423764825f * f + 0.2324782908f;
  q = q * f - 0.2493215352f;
  q = q * f + 0.2873127460f;
  q = q * f - 0.3602233529f;
  q = q * f + 0.4809158742f;
  q = q * f - 0.7213529348f;
  q = q * f + 1.4426950216f;
  return q * f + __builtin_convertvector(exponent, Vec<float>);
}

// Double precision is for gradcheck and for oracles: lane by lane through the C library.
LINFDIST_INLINE Vec<double> exp2(Vec<double> y) {
  for (int lane = 0; lane < kLanes<double>; ++lane) y[lane] = std::exp2(y[lane]);
  return y;
}

LINFDIST_INLINE Vec<double> log2(Vec<double> r) {
  for (int lane = 0; lane < kLanes<double>; ++lane) r[lane] = std::log2(r[lane]);
  return r;
}

}  // namespace linfdist::LINFDIST_ISA
