// Vectors of one instruction set, by the compiler's vector extension: one source makes AVX-512, AVX2
// and baseline (SSE2, NEON) code, as cpu/kernels.cpp is compiled once for each.
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

// max and min compile to one instruction; of two NaN-free numbers they are exact. Where one is NaN
// they are b.
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

// max(a, |b|) for a ≥ 0, and a where b is NaN.
template <class T>
LINFDIST_INLINE Vec<T> max_abs(Vec<T> a, Vec<T> b) {
  return max<T>(abs<T>(b), a);
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
#define LINFDIST_COMPARE(name, predicate)                           \
  template <class T>                                                \
  LINFDIST_INLINE Mask<T> name(Vec<T> a, Vec<T> b) {                \
    if constexpr (sizeof(T) == 4)                                   \
      return _mm512_cmp_ps_mask((__m512)a, (__m512)b, predicate);   \
    else                                                            \
      return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, predicate); \
  }
LINFDIST_COMPARE(greater, _CMP_GT_OQ)
LINFDIST_COMPARE(equal, _CMP_EQ_OQ)

template <class T>
LINFDIST_INLINE uint32_t lane_bits(Mask<T> mask) {
  return mask;
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
#endif

}  // namespace linfdist::LINFDIST_ISA
