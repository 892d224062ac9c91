// The reductions of the forward kernels over the differences of a pair: what is kept for an output,
// how four differences join it, and what is written. Every mainloop (tiles, rows) runs every one.
//
// A norm has: State, trivially copyable, of whole floats and ints; kPlanes, the operands of x; kBlocks,
// how many blocks of 128 threads its registers leave a multiprocessor; start(); take(state, x, w), four
// features, where zeros in both change nothing; passed(state, k0), after the features from k0 on;
// join(state, other); finish(m, n, state), which writes, and says whether to call mend(m, n) when the
// states are gone. One with kSearches has search(m, n, valid, part), called by four lanes together for
// an output that is written. With kZerosCount zeros do change something: then they are those that fill
// the last feature's four, and no others. With kConditional there is done(): nothing is left to do.
#pragma once

#include "cpu/kernels.h"
#include "cuda/numeric.cuh"

namespace linfdist::cuda {

__device__ __forceinline__ float4 difference(float4 a, float4 b) {
  return {a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w};
}

__device__ __forceinline__ float largest(float4 d) {
  return max_nan(max_nan(fabsf(d.x), fabsf(d.y)), max_nan(fabsf(d.z), fabsf(d.w)));
}

// Four features from k on, k < length; zeros past the end.
__device__ __forceinline__ float4 features_at(const float* row, int k, int length, bool vectors) {
  if (vectors) return *reinterpret_cast<const float4*>(row + k);
  return {row[k], k + 1 < length ? row[k + 1] : 0.f, k + 2 < length ? row[k + 2] : 0.f,
          k + 3 < length ? row[k + 3] : 0.f};
}

// What norms have in common that need neither a search nor mending.
struct Plain {
  static constexpr bool kSearches = false, kZerosCount = false, kConditional = false;
  __device__ void mend(int64_t, int64_t) const {}
};

// max |x − w|; a NaN stays. A subtraction and a maximum a pair.
struct Maximum : Plain {
  static constexpr int kPlanes = 1, kBlocks = 5;
  struct State {
    float top;
  };
  float* distance;
  int64_t outputs;

  Maximum(float* distance, int64_t outputs) : distance(distance), outputs(outputs) {}
  __device__ State start() const { return {0.f}; }
  __device__ void take(State& s, const float4 (&x)[1], float4 w) const {
    const float4 d = difference(x[0], w);
    s.top = max_nan(s.top, fabsf(d.x));
    s.top = max_nan(s.top, fabsf(d.y));
    s.top = max_nan(s.top, fabsf(d.z));
    s.top = max_nan(s.top, fabsf(d.w));
  }
  __device__ void passed(State&, int) const {}
  __device__ void join(State& s, State other) const { s.top = max_nan(s.top, other.top); }
  __device__ bool finish(int64_t m, int64_t n, State s) const {
    distance[m * outputs + n] = s.top;
    return false;
  }
};

// The same with the first feature that attains it: only the slice that holds it is recorded on the
// way, and searched at the end, so that a pair costs what it does without.
template <int kSlice>
struct FirstMaximum : Maximum {
  static constexpr int kBlocks = 3;
  static constexpr bool kSearches = true;
  struct State {
    float top, before;  // before: at the end of the last slice
    int slice;          // where the slice of the maximum begins
  };
  const float *x, *weight;
  int32_t* index;
  int features;
  bool vectors;

  FirstMaximum(const float* x, const float* weight, float* distance, int32_t* index, Sizes n,
               bool vectors)
      : Maximum(distance, n.out_features), x(x), weight(weight), index(index),
        features(int(n.in_features)), vectors(vectors) {}
  __device__ State start() const { return {0.f, 0.f, 0}; }
  __device__ void take(State& s, const float4 (&x)[1], float4 w) const {
    Maximum::State top{s.top};
    Maximum::take(top, x, w);
    s.top = top.top;
  }
  // Among numbers that are not negative the bits are ordered as they are; NaN's are the largest.
  __device__ void passed(State& s, int k0) const {
    if (__float_as_int(s.top) > __float_as_int(s.before)) s.slice = k0;
    s.before = s.top;
  }
  __device__ void join(State& s, State other) const {
    const int ours = __float_as_int(s.top), theirs = __float_as_int(other.top);
    if (theirs > ours || (theirs == ours && other.slice < s.slice)) s = other;
  }
  __device__ bool finish(int64_t m, int64_t n, State s) const {
    index[m * outputs + n] = s.slice;
    return Maximum::finish(m, n, {s.top});
  }
  // Lane `part` of four looks at four features of the slice.
  __device__ void search(int64_t m, int64_t n, bool valid, int part) const {
    const int64_t at = m * outputs + n;
    int first = 0, found = kSlice;
    if (valid) {
      const float top = distance[at];
      first = index[at];
      const int k = first + 4 * part;
      if (k < features) {
        const float4 d = difference(features_at(x + m * features, k, features, vectors),
                                    features_at(weight + n * features, k, features, vectors));
        if (attains(d.w, top)) found = 4 * part + 3;
        if (attains(d.z, top)) found = 4 * part + 2;
        if (attains(d.y, top)) found = 4 * part + 1;
        if (attains(d.x, top)) found = 4 * part;
      }
    }
    found = min(found, __shfl_xor_sync(0xffffffffu, found, 1));
    found = min(found, __shfl_xor_sync(0xffffffffu, found, 2));
    __syncwarp();  // the four have read index[at]
    if (valid && part == 0) index[at] = first + found;
  }
  __device__ static bool attains(float d, float top) { return fabsf(d) == top || d != d; }
};

// (Σ |x − w|^P)^(1/P) of the differences as they are: 2^-100 ≤ sum < ∞ loses nothing, and any other
// is done again with care, one thread for an output: at P = 8, norms below 2e-4 and differences above
// 6e4. Two to four instructions a pair, all on the pipe of multiplications.
template <int P>
struct PowerSum {
  static constexpr int kPlanes = 1, kBlocks = 5;
  static constexpr bool kSearches = false, kZerosCount = false, kConditional = false;
  struct State {
    float sum;
  };
  const float *x, *weight;
  float* distance;
  int64_t outputs;
  int features;

  __device__ State start() const { return {0.f}; }
  __device__ void take(State& s, const float4 (&x)[1], float4 w) const {
    const float4 d = difference(x[0], w);
    add(s, d.x);
    add(s, d.y);
    add(s, d.z);
    add(s, d.w);
  }
  __device__ static void add(State& s, float d) {
    if constexpr (P == 1) {
      s.sum += fabsf(d);
    } else {
      const float half = integer_power<P / 2>(d);
      s.sum = fmaf(half, half, s.sum);
    }
  }
  __device__ void passed(State&, int) const {}
  __device__ void join(State& s, State other) const { s.sum += other.sum; }
  __device__ bool finish(int64_t m, int64_t n, State s) const {
    float root = s.sum;
    if constexpr (P >= 2) root = sqrtf(root);
    if constexpr (P >= 4) root = sqrtf(root);
    if constexpr (P >= 8) root = sqrtf(root);
    distance[m * outputs + n] = root;
    return !(s.sum >= 0x1p-100f && s.sum < INFINITY);
  }
  __device__ void mend(int64_t m, int64_t n) const {
    distance[m * outputs + n] =
        careful_norm(x + m * features, weight + n * features, features, float(P));
  }
};

// Real p: sum = Σ 2^y with y = p log2|d| + shift. The shift is minus p times the logarithm of a
// difference seen before, and changes only when a y passes `kStale`: so the sum keeps its range by a
// look at four y, as in an online softmax, and no pass over the features finds the maximum first.
//
// The logarithm's error is relative to its size: around |d| = 1 the sum is as good as the CPU's, at
// 1e±30 terms are off by 5e-6 p, and the norm by 5e-6.
//
// kSkips, for large p: four differences of which none counts beside the largest so far cost only
// their comparison. Otherwise two special functions a pair, of which kPolynomials of four powers of
// two are taken to the pipe of multiplications instead.
template <bool kSkips>
struct RealPowerSum {
  static constexpr int kPlanes = 1, kBlocks = 3;
  static constexpr bool kSearches = false, kZerosCount = false, kConditional = false;
  static constexpr int kPolynomials = 2;
  static constexpr float kStale = kSkips ? 1.f : 64.f;
  struct State {
    float sum, shift, least;  // |d| ≤ least does not count; kSkips only
  };
  const float *x, *weight;
  float* distance;
  int64_t outputs;
  int features;
  float p, ratio;  // ratio: which part of the largest difference does not count
  static constexpr float kUnset = 126.f;

  __device__ State start() const { return {0.f, p * kUnset, 0.f}; }
  __device__ void take(State& s, const float4 (&x)[1], float4 w) const {
    const float4 d = difference(x[0], w);
    if constexpr (kSkips)
      if (largest(d) <= s.least) return;
    float4 l = {log2_fast(fabsf(d.x)), log2_fast(fabsf(d.y)), log2_fast(fabsf(d.z)),
                log2_fast(fabsf(d.w))};
    float4 y = exponents(l, s.shift);
    if (!(max_nan(max_nan(y.x, y.y), max_nan(y.z, y.w)) <= kStale)) {
      const float top = max_nan(max_nan(l.x, l.y), max_nan(l.z, l.w));
      move(s, -p * top);
      if constexpr (kSkips) s.least = largest(d) * ratio;
      y = exponents(l, s.shift);
    }
    s.sum += exp2_fast(y.x);
    if constexpr (kSkips) {
      s.sum += exp2_fast(y.y) + exp2_fast(y.z) + exp2_fast(y.w);
    } else {
      add<(kPolynomials > 2)>(s.sum, y.y);
      add<(kPolynomials > 1)>(s.sum, y.z);
      add<(kPolynomials > 0)>(s.sum, y.w);
    }
  }
  __device__ float4 exponents(float4 l, float shift) const {
    return {fmaf(p, l.x, shift), fmaf(p, l.y, shift), fmaf(p, l.z, shift), fmaf(p, l.w, shift)};
  }
  template <bool kPolynomial>
  __device__ static void add(float& sum, float y) {
    if constexpr (kPolynomial) {
      const Split power = exp2_split(y);
      sum = fmaf(power.q, power.scale, sum);
    } else {
      sum += exp2_fast(y);
    }
  }
  __device__ static void move(State& s, float shift) {
    s.sum *= exp2_fast(shift - s.shift);
    s.shift = shift;
  }
  __device__ void passed(State&, int) const {}
  __device__ void join(State& s, State other) const {
    if (other.shift < s.shift)
      move(s, other.shift);
    else
      move(other, s.shift);
    s.sum += other.sum;
  }
  __device__ bool finish(int64_t m, int64_t n, State s) const {
    const float norm = exp2f((log2f(s.sum) - s.shift) / p);
    distance[m * outputs + n] = norm;
    // A NaN, an infinity, or differences all near 0.
    return !(s.sum >= 0x1p-100f && s.sum < INFINITY && norm >= 0x1p-100f && norm < INFINITY);
  }
  __device__ void mend(int64_t m, int64_t n) const {
    distance[m * outputs + n] = careful_norm(x + m * features, weight + n * features, features, p);
  }
};

// The range of max |x − w| over a box; a NaN stays in both bounds. Two subtractions and four maxima.
struct Interval : Plain {
  static constexpr int kPlanes = 2, kBlocks = 3;
  struct State {
    float lower, upper;
  };
  float *distance_lower, *distance_upper;
  int64_t outputs;

  Interval(float* lower, float* upper, int64_t outputs)
      : distance_lower(lower), distance_upper(upper), outputs(outputs) {}
  __device__ State start() const { return {0.f, 0.f}; }
  __device__ void take(State& s, const float4 (&x)[2], float4 w) const {
    const float4 below = difference(x[0], w), above = difference(w, x[1]);
    add(s, below.x, above.x);
    add(s, below.y, above.y);
    add(s, below.z, above.z);
    add(s, below.w, above.w);
  }
  __device__ static void add(State& s, float below, float above) {
    s.lower = max_nan(max_nan(s.lower, below), above);
    s.upper = max_nan(max_nan(s.upper, -below), -above);
  }
  __device__ void passed(State&, int) const {}
  __device__ void join(State& s, State other) const {
    s.lower = max_nan(s.lower, other.lower);
    s.upper = max_nan(s.upper, other.upper);
  }
  __device__ bool finish(int64_t m, int64_t n, State s) const {
    distance_lower[m * outputs + n] = s.lower;
    distance_upper[m * outputs + n] = s.upper;
    return false;
  }
};

}  // namespace linfdist::cuda
