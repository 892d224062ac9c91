// Vectors of one instruction set, by the compiler's vector extension: one source makes AVX-512, AVX2
// and baseline (SSE2, NEON) code, as cpu_kernels.cpp is compiled once for each.
//
// Everything lives in a namespace named after the instruction set, so that the linker can never
// merge a function compiled for AVX-512 into the path of a machine without it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

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

// What a comparison of vectors returns, and its uses: a mask register where there is one.
#if defined(__AVX512DQ__)
template <class T>
using Mask = std::conditional_t<sizeof(T) == 4, __mmask16, __mmask8>;
#define LINFDIST_COMPARE(name, predicate)                              \
  template <class T>                                                   \
  LINFDIST_INLINE Mask<T> name(Vec<T> a, Vec<T> b) {                   \
    if constexpr (sizeof(T) == 4)                                      \
      return _mm512_cmp_ps_mask((__m512)a, (__m512)b, predicate);      \
    else                                                               \
      return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, predicate);    \
  }
LINFDIST_COMPARE(greater, _CMP_GT_OQ)
LINFDIST_COMPARE(equal, _CMP_EQ_OQ)

template <class T>
LINFDIST_INLINE uint32_t lane_bits(Mask<T> mask) {
  return mask;
}

template <class T>
LINFDIST_INLINE Vec<T> zero_unless(Mask<T> mask, Vec<T> v) {
  if constexpr (sizeof(T) == 4)
    return _mm512_maskz_mov_ps(mask, (__m512)v);
  else
    return _mm512_maskz_mov_pd(mask, (__m512d)v);
}
#else
template <class T>
using Mask = Bits<T>;  // −1 where true

template <class T>
LINFDIST_INLINE Mask<T> greater(Vec<T> a, Vec<T> b) {
  return a > b;
}

template <class T>
LINFDIST_INLINE Mask<T> equal(Vec<T> a, Vec<T> b) {
  return a == b;
}

// One bit a lane, lane 0 lowest.
template <class T>
LINFDIST_INLINE uint32_t lane_bits(Mask<T> mask) {
#if defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return _mm256_movemask_ps((__m256)mask);
  else
    return _mm256_movemask_pd((__m256d)mask);
#else
  uint32_t bits = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) bits |= (mask[lane] ? 1u : 0u) << lane;
  return bits;
#endif
}

template <class T>
LINFDIST_INLINE Vec<T> zero_unless(Mask<T> mask, Vec<T> v) {
  return (Vec<T>)((Bits<T>)v & mask);
}
#endif

// v[n]^power in place, for 0 ≤ v ≤ 1 and power > 0; a result below 2^-126 is 2^-126. N vectors go
// through each step together, because one power is a chain of some 90 cycles: N = 4 keeps the
// arithmetic units busy where the processor's own reordering does not reach far enough.
//
// log2: v = 2^e · c · (1 + f). exp2: 2^y = 2^n · 2^f, |f| ≤ 1/2, by a polynomial of degree 5 fitted to
// 2^f in relative error (8e-8). The relative error of a power above 2^-24 is below 5e-6.
#define LINFDIST_EACH(statement)                \
  _Pragma("GCC unroll 8") for (int n = 0; n < N; ++n) { statement; }

template <int N>
LINFDIST_INLINE void raise(Vec<float> (&v)[N], Vec<float> power) {
  Vec<float> f[N], q[N], y[N];
#if defined(__AVX512DQ__)
  // The top four bits of the mantissa choose c of 16, −1/32 ≤ f < 1/16; log2(1 + f)/f is a polynomial
  // of degree 3 fitted in relative error (1e-7). c is 1 in the first and 2 in the last sixteenth, so
  // that nothing cancels where v is near 1, the terms that matter at large power.
  const Vec<float> inverse_c = {
      1.0f, 0.914285719f, 0.864864886f, 0.820512831f, 0.780487776f, 0.744186044f,
      0.711111128f, 0.680851042f, 0.653061211f, 0.627451003f, 0.603773594f, 0.581818163f,
      0.561403513f, 0.542372882f, 0.524590135f, 0.5f};
  const Vec<float> log2_c = {
      -0.0f, 0.129283009f, 0.209453331f, 0.2854022f, 0.357552058f, 0.42626476f,
      0.491853061f, 0.554588897f, 0.614709874f, 0.672425291f, 0.727920433f, 0.781359759f,
      0.832890003f, 0.882643047f, 0.930737418f, 1.0f};
  LINFDIST_EACH(const __m512i sixteenth = _mm512_srli_epi32((__m512i)v[n], 19);
                f[n] = (Vec<float>)_mm512_getmant_ps(v[n], _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero) *
                           (Vec<float>)_mm512_permutexvar_ps(sixteenth, inverse_c) -
                       1.0f;
                y[n] = (Vec<float>)_mm512_getexp_ps(v[n]) +
                       (Vec<float>)_mm512_permutexvar_ps(sixteenth, log2_c))
  LINFDIST_EACH(q[n] = -0.3436755051f * f[n] + 0.4811103312f)
  LINFDIST_EACH(q[n] = q[n] * f[n] - 0.7213621692f)
  LINFDIST_EACH(q[n] = q[n] * f[n] + 1.4426950067f)
#else
  // √½ ≤ 1 + f < √2, c = 1; log2(1 + f)/f is a polynomial of degree 7 (2e-7).
  constexpr int32_t sqrt_half = 0x3f3504f3;
  LINFDIST_EACH(const Bits<float> e = ((Bits<float>)v[n] - sqrt_half) >> 23;
                f[n] = (Vec<float>)((Bits<float>)v[n] - (e << 23)) - 1.0f;
                y[n] = __builtin_convertvector(e, Vec<float>))
  LINFDIST_EACH(q[n] = -0.1423764825f * f[n] + 0.2324782908f)
  LINFDIST_EACH(q[n] = q[n] * f[n] - 0.2493215352f)
  LINFDIST_EACH(q[n] = q[n] * f[n] + 0.2873127460f)
  LINFDIST_EACH(q[n] = q[n] * f[n] - 0.3602233529f)
  LINFDIST_EACH(q[n] = q[n] * f[n] + 0.4809158742f)
  LINFDIST_EACH(q[n] = q[n] * f[n] - 0.7213529348f)
  LINFDIST_EACH(q[n] = q[n] * f[n] + 1.4426950216f)
#endif
  constexpr float round_to_integer = 12582912.0f;  // 1.5 · 2^23; the sum's low bits are the integer
  LINFDIST_EACH(y[n] = max<float>((q[n] * f[n] + y[n]) * power, broadcast<float>(-126.0f)))
  LINFDIST_EACH(v[n] = y[n] + round_to_integer; f[n] = y[n] - (v[n] - round_to_integer))
  LINFDIST_EACH(q[n] = 0.0013266970f * f[n] + 0.0096754597f)
  LINFDIST_EACH(q[n] = q[n] * f[n] + 0.0555074262f)
  LINFDIST_EACH(q[n] = q[n] * f[n] + 0.2402212175f)
  LINFDIST_EACH(q[n] = q[n] * f[n] + 0.6931469492f)
  LINFDIST_EACH(q[n] = q[n] * f[n] + 1.0000000710f)
  LINFDIST_EACH(v[n] = (Vec<float>)((Bits<float>)q[n] + ((Bits<float>)v[n] << 23)))
}

// Double precision is for gradcheck and for oracles: lane by lane through the C library.
template <int N>
LINFDIST_INLINE void raise(Vec<double> (&v)[N], Vec<double> power) {
  for (int n = 0; n < N; ++n)
    for (int lane = 0; lane < kLanes<double>; ++lane)
      v[n][lane] = std::pow(v[n][lane], power[lane]);
}

}  // namespace linfdist::LINFDIST_ISA
