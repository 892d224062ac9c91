// One optimizer step on the rows of a matrix, in place: decay, then Adam (see adamw_step.h).
//
// A thread owns whole rows. The weights of a row come from memory once and stay in cache from the
// sweep that finds the largest, over those that sum the powers and decay, to Adam's: one pass over
// the four arrays, 28 bytes of memory traffic a weight in float.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "adamw_step.h"
#include "cpu/blocks.h"
#include "cpu/simd_power.h"

namespace linfdist::LINFDIST_ISA {

// While it lives, denormals count as 0 on its thread. At a p of some tens many gradients are so
// small that their squares are denormals, on which x86 is some 30 times slower; and a moment without
// a gradient would stay one for ever, because 0.9 of the smallest rounds to itself.
class NoDenormals {
#if defined(__SSE2__)
 public:
  NoDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushResults | kFlushOperands); }
  ~NoDenormals() { _mm_setcsr(before_); }
  NoDenormals(const NoDenormals&) = delete;
  NoDenormals& operator=(const NoDenormals&) = delete;

 private:
  static constexpr unsigned kFlushResults = 0x8000, kFlushOperands = 0x0040;
  unsigned before_;
#endif
};

constexpr int kRaised = 4;  // vectors raised together
template <class T>
constexpr int64_t kChunk = kRaised * kLanes<T>;

// max|w|; a NaN is passed by.
template <class T>
T largest_of(const T* weight, int64_t length) {
  Vec<T> tops[kRaised] = {};
  int64_t i = 0;
  for (; i + kChunk<T> <= length; i += kChunk<T>)
    for (int n = 0; n < kRaised; ++n)
      tops[n] = max<T>(abs<T>(load<T>(weight + i + n * kLanes<T>)), tops[n]);
  T top = 0;
  for (int n = 0; n < kRaised; ++n)
    for (int lane = 0; lane < kLanes<T>; ++lane) top = tops[n][lane] > top ? tops[n][lane] : top;
  for (; i < length; ++i) top = std::fabs(weight[i]) > top ? std::fabs(weight[i]) : top;
  return top;
}

// The first i with |w_i| = top; `length` in a row of NaN.
template <class T>
int64_t first_of(const T* weight, int64_t length, T top) {
  int64_t i = 0;
  for (; i + kLanes<T> <= length; i += kLanes<T>) {
    const Mask<T> found = equal<T>(abs<T>(load<T>(weight + i)), broadcast<T>(top));
    if (lane_bits<T>(found)) return i + __builtin_ctz(lane_bits<T>(found));
  }
  while (i < length && std::fabs(weight[i]) != top) ++i;
  return i;
}

// Stores the powers t of a row, with room for whole chunks, and returns Σ t r.
template <class T>
T raise_ratios(const T* weight, int64_t length, T top, const Power<T>& power, T* powers) {
  Vec<T> r[kRaised], t[kRaised], sums[kRaised] = {};
  for (int64_t i = 0; i < length; i += kChunk<T>) {
    if (i + kChunk<T> <= length) {
      std::memcpy(r, weight + i, sizeof r);
    } else {
      std::memset(r, 0, sizeof r);
      std::memcpy(r, weight + i, (length - i) * sizeof(T));
    }
    for (int n = 0; n < kRaised; ++n) t[n] = r[n] = abs<T>(r[n]) / top;
    const bool counts = raise(power, t);
    for (int n = 0; n < kRaised; ++n) {
      t[n] = counts && r[n] > 0 ? t[n] : 0;  // r = 0 counts at no p, at p = 1 neither
      sums[n] += t[n] * r[n];
    }
    std::memcpy(powers + i, t, sizeof t);
  }
  T sum = 0;
  for (int n = 0; n < kRaised; ++n)
    for (int lane = 0; lane < kLanes<T>; ++lane) sum += sums[n][lane];
  return sum;
}

template <class T>
void adam_row(T* weight, const T* grad, T* exp_avg, T* exp_avg_sq, int64_t length,
              const AdamW<T> step) {
#pragma omp simd
  for (int64_t i = 0; i < length; ++i) step.adam(weight[i], grad[i], exp_avg[i], exp_avg_sq[i]);
}

template <class T>
void adamw(T* weight, const T* grad, T* exp_avg, T* exp_avg_sq, int64_t rows, int64_t length,
           const AdamW<T>& step) {
  const Power<T> power(step.power, kLeastCutoff<T>);
  const int64_t room = step.decay == Decay::kPower ? ceil_div(length, kChunk<T>) * kChunk<T> : 0;
  // To move a weight takes about as long as 64 subtractions.
#pragma omp parallel num_threads(threads_for({rows, length, 64}))
  {
    [[maybe_unused]] const NoDenormals guard{};
    const Buffer<T> powers(room);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      T* const w = weight + row * length;
      if (step.decay == Decay::kPower) {
        const T top = largest_of(w, length);
        const T factor = step.factor(top, raise_ratios(w, length, top, power, powers.get()));
        for (int64_t i = 0; i < length; ++i) w[i] = step.decayed(w[i], powers[i], factor);
      } else if (step.decay == Decay::kLargest) {
        const int64_t first = first_of(w, length, largest_of(w, length));
        if (first < length) w[first] = step.plainly_decayed(w[first]);
      } else {
        for (int64_t i = 0; i < length; ++i) w[i] = step.plainly_decayed(w[i]);
      }
      adam_row(w, grad + row * length, exp_avg + row * length, exp_avg_sq + row * length, length,
               step);
    }
  }
}

}  // namespace linfdist::LINFDIST_ISA
