// |v|^power for vectors of ratios |v| ≤ 1: the inner loop of every real p.
//
// |v| = 2^e · c · (1 + f) gives y = power · log2|v| = power · e + power · log2 c + f · q(f), with q a
// polynomial times power; then 2^y = 2^n · 2^g, |g| ≤ 1/2, by a polynomial of degree 5 fitted to 2^g
// in relative error (8e-8). A result above 2^-24 has a relative error below 5e-6.
//
// N vectors go through each step together: one power is a chain of some 90 cycles, and N = 4 keeps the
// arithmetic units busy where the processor's own reordering does not reach far enough.
#pragma once

#include "cpu/simd.h"
#include "powers.h"

#define LINFDIST_EACH(statement) \
  _Pragma("GCC unroll 8") for (int n = 0; n < N; ++n) { statement; }

namespace linfdist::LINFDIST_ISA {

// From this power on most vectors hold no term that counts, and a test before the work pays.
constexpr double kSkipFrom = 24;

// One power, prepared: raise() returns 0 for what is below 2^cutoff, −126 < cutoff < 0.
template <class T>
struct Power;

template <>
struct Power<float> {
  Vec<float> power, least, lowest;  // |v| ≤ least or y ≤ lowest: does not count
  bool skips;
#if defined(__AVX512DQ__)
  // The top four bits of the mantissa choose c of 16, −1/32 ≤ f < 1/16; q has degree 3, fitted to
  // log2(1 + f)/f in relative error (1e-7). c is 1 in the first and 2 in the last sixteenth: nothing
  // cancels where |v| is near 1, the terms that count at a large power.
  Vec<float> inverse_c, log2_c, q3, q2, q1, q0;
#endif

  Power(double p, double cutoff)
      : power(broadcast<float>(float(p))), least(broadcast<float>(float(ratio_cutoff(p, cutoff)))),
        lowest(broadcast<float>(float(cutoff))), skips(p >= kSkipFrom) {
#if defined(__AVX512DQ__)
    inverse_c = Vec<float>{1.0f,         0.914285719f, 0.864864886f, 0.820512831f,
                           0.780487776f, 0.744186044f, 0.711111128f, 0.680851042f,
                           0.653061211f, 0.627451003f, 0.603773594f, 0.581818163f,
                           0.561403513f, 0.542372882f, 0.524590135f, 0.5f};
    log2_c = power * Vec<float>{-0.0f,        0.129283009f, 0.209453331f, 0.2854022f,
                                0.357552058f, 0.42626476f,  0.491853061f, 0.554588897f,
                                0.614709874f, 0.672425291f, 0.727920433f, 0.781359759f,
                                0.832890003f, 0.882643047f, 0.930737418f, 1.0f};
    q3 = power * -0.3436755051f;
    q2 = power * 0.4811103312f;
    q1 = power * -0.7213621692f;
    q0 = power * 1.4426950067f;
#endif
  }
};

template <>
struct Power<double> {
  double power, least;

  Power(double p, double cutoff) : power(p), least(ratio_cutoff(p, cutoff)) {}
};

// y[n] becomes 2^y[n], or 0 where y[n] ≤ lowest; −126 ≤ lowest and y[n] < 127.
template <int N>
LINFDIST_INLINE void exp2_each(Vec<float> lowest, Vec<float> (&y)[N]) {
  Vec<float> f[N], q[N], whole[N];
#if defined(__AVX512DQ__)
  LINFDIST_EACH(whole[n] = _mm512_roundscale_ps(y[n], _MM_FROUND_TO_NEAREST_INT);
                f[n] = y[n] - whole[n])
#else
  constexpr float round_to_integer = 12582912.0f;  // 1.5 · 2^23; the sum's low bits are the integer
  LINFDIST_EACH(y[n] = max<float>(y[n], broadcast<float>(-126.0f)))
  LINFDIST_EACH(whole[n] = y[n] + round_to_integer; f[n] = y[n] - (whole[n] - round_to_integer))
#endif
  LINFDIST_EACH(q[n] = Exp2::c5 * f[n] + Exp2::c4)
  LINFDIST_EACH(q[n] = q[n] * f[n] + Exp2::c3)
  LINFDIST_EACH(q[n] = q[n] * f[n] + Exp2::c2)
  LINFDIST_EACH(q[n] = q[n] * f[n] + Exp2::c1)
  LINFDIST_EACH(q[n] = q[n] * f[n] + Exp2::c0)
#if defined(__AVX512DQ__)
  LINFDIST_EACH(y[n] = _mm512_maskz_scalef_ps(greater<float>(y[n], lowest), q[n], whole[n]))
#else
  LINFDIST_EACH(y[n] = (Vec<float>)(((Bits<float>)q[n] + ((Bits<float>)whole[n] << 23)) &
                                    greater<float>(y[n], lowest)))
#endif
}

// v[n] becomes |v[n]|^power, or 0 where that does not count. False, and v as it was, where nothing does.
template <int N>
LINFDIST_INLINE bool raise(const Power<float>& p, Vec<float> (&v)[N]) {
  if (p.skips) {
    Vec<float> top{};  // a NaN is passed by: it must not hide what other pairs have in its lane
    for (int n = 0; n < N; ++n) top = max_abs<float>(top, v[n]);
    if (lane_bits<float>(greater<float>(top, p.least)) == 0) return false;
  }
  Vec<float> f[N], q[N], y[N];
#if defined(__AVX512DQ__)
  LINFDIST_EACH(const __m512i sixteenth = _mm512_srli_epi32((__m512i)v[n], 19);
                f[n] = (Vec<float>)_mm512_getmant_ps(v[n], _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero) *
                           (Vec<float>)_mm512_permutexvar_ps(sixteenth, p.inverse_c) -
                       1.0f;
                y[n] = (Vec<float>)_mm512_getexp_ps(v[n]) * p.power +
                       (Vec<float>)_mm512_permutexvar_ps(sixteenth, p.log2_c))
  LINFDIST_EACH(q[n] = p.q3 * f[n] + p.q2)
  LINFDIST_EACH(q[n] = q[n] * f[n] + p.q1)
  LINFDIST_EACH(q[n] = q[n] * f[n] + p.q0)
  LINFDIST_EACH(y[n] = q[n] * f[n] + y[n])
#else
  // √½ ≤ 1 + f < √2, c = 1; q has degree 7 (2e-7).
  constexpr int32_t sqrt_half = 0x3f3504f3;
  LINFDIST_EACH(v[n] = abs<float>(v[n]);
                const Bits<float> e = ((Bits<float>)v[n] - sqrt_half) >> 23;
                f[n] = (Vec<float>)((Bits<float>)v[n] - (e << 23)) - 1.0f;
                y[n] = __builtin_convertvector(e, Vec<float>))
  LINFDIST_EACH(q[n] = -0.1423764825f * f[n] + 0.2324782908f)
  LINFDIST_EACH(q[n] = q[n] * f[n] - 0.2493215352f)
  LINFDIST_EACH(q[n] = q[n] * f[n] + 0.2873127460f)
  LINFDIST_EACH(q[n] = q[n] * f[n] - 0.3602233529f)
  LINFDIST_EACH(q[n] = q[n] * f[n] + 0.4809158742f)
  LINFDIST_EACH(q[n] = q[n] * f[n] - 0.7213529348f)
  LINFDIST_EACH(q[n] = q[n] * f[n] + 1.4426950216f)
  LINFDIST_EACH(y[n] = (q[n] * f[n] + y[n]) * p.power)
#endif
  exp2_each(p.lowest, y);
  LINFDIST_EACH(v[n] = y[n])
  return true;
}

// Double precision is for gradcheck and for oracles: lane by lane through the C library.
template <int N>
LINFDIST_INLINE void exp2_each(Vec<double> lowest, Vec<double> (&y)[N]) {
  for (int n = 0; n < N; ++n)
    for (int lane = 0; lane < kLanes<double>; ++lane)
      y[n][lane] = y[n][lane] > lowest[lane] ? std::exp2(y[n][lane]) : 0.0;
}

template <int N>
LINFDIST_INLINE bool raise(const Power<double>& p, Vec<double> (&v)[N]) {
  for (int n = 0; n < N; ++n)
    for (int lane = 0; lane < kLanes<double>; ++lane) {
      const double ratio = std::fabs(v[n][lane]);
      v[n][lane] = ratio > p.least ? std::pow(ratio, p.power) : 0.0;
    }
  return true;
}

}  // namespace linfdist::LINFDIST_ISA
