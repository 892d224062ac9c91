// f_t by LogSumExp in float, as a norm of the forward mainloops and a term of the backward one:
//   f_t = top + log(total) / t,  top = max_i |d_i|,  total = Σ_i near + far,
//   near = 2^(s (|d_i| − top)),  far = 2^(−s (|d_i| + top)),  s = t log2(e).
// No exponent is above 0. Each is a product of a difference: the largest is exactly 0 at any t, where
// a sum of rounded products would be off by 2^-24 s top.
//
// Of all far, 2^(−s top) is the largest: where s top is past the cutoff none counts. There a near
// may count or not, and four of which none does cost their subtractions and comparisons alone.
#pragma once

#include "cuda/norms.cuh"

namespace linfdist::cuda {

__device__ __forceinline__ bool is_set(const int32_t* flag) { return *flag != 0; }

// The sum is in units of the largest difference so far, and moves when a larger one comes, as in an
// online softmax. Special functions a pair: one where no far counts, else two.
struct LogSumExp : Plain {
  static constexpr int kPlanes = 1, kBlocks = 4;
  static constexpr bool kZerosCount = true, kConditional = true;
  struct State {
    float sum, top;
  };
  float *distance, *total;
  const int32_t* fits;
  int64_t outputs;
  int padding;  // zeros past the last feature that are taken as features
  float t, scale, cutoff;

  LogSumExp(float* distance, float* total, const int32_t* fits, Sizes n, double t)
      : distance(distance), total(total), fits(fits), outputs(n.out_features),
        padding(int(-n.in_features & 3)), t(float(t)), scale(float(t * kLog2E)),
        cutoff(float(kForwardCutoff<float> / (t * kLog2E))) {}
  __device__ bool done() const { return is_set(fits); }
  __device__ State start() const { return {0.f, 0.f}; }
  __device__ void take(State& s, const float4 (&x)[1], float4 w) const {
    const float4 d = difference(x[0], w);
    const float most = largest(d), above = most - s.top;
    if (above <= cutoff) return;
    if (!(above <= 0) | far_counts(s.top)) {  // rare, so not on the way
      if (!(above <= 0)) move(s, max_nan(s.top, most));
      if (far_counts(s.top))
        s.sum += far(d.x, s.top) + far(d.y, s.top) + far(d.z, s.top) + far(d.w, s.top);
    }
    s.sum += near(d.x, s.top) + near(d.y, s.top) + near(d.z, s.top) + near(d.w, s.top);
  }
  __device__ float near(float d, float top) const { return exp2_fast((fabsf(d) - top) * scale); }
  __device__ float far(float d, float top) const { return exp2_fast((fabsf(d) + top) * -scale); }
  __device__ bool far_counts(float top) const { return top < -cutoff; }
  __device__ void move(State& s, float top) const {
    s.sum *= exp2_fast((s.top - top) * scale);
    s.top = top;
  }
  __device__ void passed(State&, int) const {}
  __device__ void join(State& s, State other) const {
    const float top = max_nan(s.top, other.top);
    move(s, top);
    move(other, top);
    s.sum += other.sum;
  }
  __device__ bool finish(int64_t m, int64_t n, State s) const {
    // Padding adds a near and a far of d = 0, if it counts at all.
    if (far_counts(s.top)) s.sum -= 2 * float(padding) * far(0.f, s.top);
    const bool finite = s.top < INFINITY;
    distance[m * outputs + n] = finite ? s.top + logf(s.sum) / t : s.top;
    total[m * outputs + n] = finite ? s.sum : s.top;
    return false;
  }
};

// The tops for the backward pass, bit for bit those of LogSumExp.
struct ConditionalMaximum : Maximum {
  static constexpr bool kConditional = true;
  const int32_t* fits;

  ConditionalMaximum(float* distance, const int32_t* fits, int64_t outputs)
      : Maximum(distance, outputs), fits(fits) {}
  __device__ bool done() const { return is_set(fits); }
};

// Of a pair's gradient, g sign(d) (near − far) / total. Coefficients: (top, g / total).
struct LogSumExpTerm {
  static constexpr int kCoefficients = 2;
  static constexpr bool kConditional = true;
  const float* total;
  const int32_t* fits;
  float scale, cutoff;

  LogSumExpTerm(const float* total, const int32_t* fits, double t)
      : total(total), fits(fits), scale(float(t * kLog2E)),
        cutoff(float(kBackwardCutoff<float> / (t * kLog2E))) {}
  __device__ bool done() const { return is_set(fits); }
  // A pair that does not exist has top = ∞: nothing of it counts. Of one that is not finite all does.
  __device__ void coefficients(float grad, float top, int64_t at, float (&c)[2]) const {
    c[0] = at < 0 ? INFINITY : top < INFINITY ? top : NAN;
    c[1] = at < 0 ? 0.f : grad / total[at];
  }
  // Whether far counts for one of the warp's samples, each lane with the coefficients of its own.
  __device__ bool look(const float* c) const {
    return __any_sync(0xffffffffu, c[threadIdx.x % 32] < -cutoff);
  }
  __device__ void add(const float (&x)[4], float w, const float4 (&c)[2], float (&gx)[4], float& gw,
                      bool far) const {
    const float4 d = {x[0] - w, x[1] - w, x[2] - w, x[3] - w};
    const float4 above = {fabsf(d.x) - c[0].x, fabsf(d.y) - c[0].y, fabsf(d.z) - c[0].z,
                          fabsf(d.w) - c[0].w};
    // & and not &&: one branch for the four.
    if ((above.x <= cutoff) & (above.y <= cutoff) & (above.z <= cutoff) & (above.w <= cutoff))
      return;
    float4 e = {exp2_fast(above.x * scale), exp2_fast(above.y * scale), exp2_fast(above.z * scale),
                exp2_fast(above.w * scale)};
    if (far) {
      e.x -= exp2_fast((fabsf(d.x) + c[0].x) * -scale);
      e.y -= exp2_fast((fabsf(d.y) + c[0].y) * -scale);
      e.z -= exp2_fast((fabsf(d.z) + c[0].z) * -scale);
      e.w -= exp2_fast((fabsf(d.w) + c[0].w) * -scale);
    }
    add(e.x, d.x, c[1].x, gx[0], gw);
    add(e.y, d.y, c[1].y, gx[1], gw);
    add(e.z, d.z, c[1].z, gx[2], gw);
    add(e.w, d.w, c[1].w, gx[3], gw);
  }
  __device__ static void add(float e, float d, float share, float& gx, float& gw) {
    e = copysignf(e, d);
    gx = fmaf(e, share, gx);
    gw = fmaf(e, share, gw);
  }
};

// What `lse_forward` has for top (cuda/forward.cu).
void lse_tops(const float* x, const float* weight, float* top, const int32_t* fits, Sizes,
              void* stream);

}  // namespace linfdist::cuda
