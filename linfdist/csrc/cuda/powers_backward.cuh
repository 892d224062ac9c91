// Both gradients of Σ_bj g_bj ‖x_b − w_j‖_p at finite p in float, from one evaluation of the powers:
//   t_bji = g_bj (|d| / distance)^(p−1) sign(d),  d = x_bi − w_ji;   ∂x_bi = Σ_j t,  ∂w_ji = −Σ_b t.
//
// A lane is a feature, a warp has 32 samples, a block up to 16 warps: 512 samples × 32 features. Each
// thread keeps its 32 samples' features and gradients in registers while all neurons of the block's
// segment pass by, eight at a time: a neuron's weights and what it needs of g and distance (the
// coefficients, a vector for every neuron, one broadcast 16-byte load for four samples) come through two
// buffers of shared memory, filled asynchronously one slice ahead. ∂x stays in registers to the end;
// ∂w is summed over a thread's samples in a register, over the block's warps in shared memory.
// Shared memory for 512 samples: 66 KB, with two coefficients 98 KB.
//
// Cost per pair: p = 8, seven instructions of the multiplication pipe; real p, two special functions
// (of four powers of two kPolynomials go to the multiplication pipe), five others.
#pragma once

#include "cuda/numeric.cuh"
#include "cuda/segments.cuh"

namespace linfdist::cuda {

constexpr int kSamples = 32, kNeurons = 8, kMostWarps = 16;

// 0 for a distance of 0 and for those with an infinite inverse.
__device__ __forceinline__ float inverse_of(float distance) {
  return distance >= kSmallest<float> ? 1.f / distance : 0.f;
}

// A term has: kCoefficients, what a pair needs of g and distance; coefficients(g, distance, at, c), which
// finds them for the pair at `at` of the matrix of outputs, such that its terms are NaN where the
// distance is not finite, or for one that does not exist, at = −1, such that its terms are 0; look(c), called by a warp with a neuron's first coefficients of its 32
// samples, whose result every add() of that neuron gets; add(x, w, c, gx, gw, result), four samples.
// With kConditional there is done(): nothing is left to do.

// P = 1, 2, 4, 8.
template <int P>
struct PowerTerm {
  // d (g^(1/(P−1)) / distance) to the power P − 1 is the term, with the signs of d and g: P − 1 is odd.
  static constexpr int kCoefficients = 1;
  static constexpr bool kConditional = false;

  __device__ void coefficients(float grad, float distance, int64_t, float (&c)[1]) const {
    const float inverse = inverse_of(distance);
    if constexpr (P == 1)
      c[0] = grad;
    else if constexpr (P == 2)
      c[0] = grad * inverse;
    else
      c[0] = copysignf(powf(fabsf(grad), 1.f / (P - 1)), grad) * inverse;
    if (!(distance < INFINITY)) c[0] = NAN;
  }
  __device__ bool look(const float*) const { return false; }
  __device__ void add(const float (&x)[4], float w, const float4 (&c)[1], float (&gx)[4], float& gw,
                      bool) const {
    add(x[0] - w, c[0].x, gx[0], gw);
    add(x[1] - w, c[0].y, gx[1], gw);
    add(x[2] - w, c[0].z, gx[2], gw);
    add(x[3] - w, c[0].w, gx[3], gw);
  }
  __device__ static void add(float d, float c, float& gx, float& gw) {
    if constexpr (P == 1) {
      const float t = (d == 0 ? 0.f : copysignf(1.f, d)) * c;
      gx += t;
      gw += t;
    } else {
      const float v = P == 2 ? d : d * c;
      const float a = P == 2 ? c : P == 4 ? v : v * v * v;
      const float b = P == 2 ? d : v * v;
      gx = fmaf(a, P == 8 ? b * b : b, gx);
      gw = fmaf(a, P == 8 ? b * b : b, gw);
    }
  }
};

// Real p. kSkips, for large p: four samples of which no term reaches 2^cutoff cost only comparisons.
template <bool kSkips>
struct RealTerm {
  static constexpr int kCoefficients = 2;
  static constexpr bool kConditional = false;
  static constexpr int kPolynomials = 2;
  float power, cutoff, ratio;  // p − 1; ratio^power = 2^cutoff

  // Without skipping (c, g): the term is 2^(power log2|d| + c) g sign(d). With it (1 / least, g): below
  // |d| = least nothing counts, and there the exponent is the cutoff. At |d| = distance it is 0, and
  // no rounding may raise it.
  __device__ void coefficients(float grad, float distance, int64_t, float (&c)[2]) const {
    if constexpr (kSkips)
      c[0] = distance * ratio >= FLT_MIN ? 1.f / (distance * ratio) : 0.f;
    else
      c[0] = inverse_of(distance) != 0 ? -power * log2f(distance) : -INFINITY;
    if (!(distance < INFINITY)) c[0] = NAN;
    c[1] = grad;
  }
  __device__ bool look(const float*) const { return false; }
  __device__ void add(const float (&x)[4], float w, const float4 (&c)[2], float (&gx)[4], float& gw,
                      bool) const {
    const float4 d = {x[0] - w, x[1] - w, x[2] - w, x[3] - w};
    if constexpr (kSkips) {
      const float4 v = {d.x * c[0].x, d.y * c[0].y, d.z * c[0].z, d.w * c[0].w};
      // & and not &&: one branch for the four.
      if ((fabsf(v.x) <= 1) & (fabsf(v.y) <= 1) & (fabsf(v.z) <= 1) & (fabsf(v.w) <= 1)) return;
      add(above(v.x), d.x, c[1].x, gx[0], gw);
      add(above(v.y), d.y, c[1].y, gx[1], gw);
      add(above(v.z), d.z, c[1].z, gx[2], gw);
      add(above(v.w), d.w, c[1].w, gx[3], gw);
    } else {
      add(exponential<(kPolynomials > 3)>(exponent(d.x, c[0].x)), d.x, c[1].x, gx[0], gw);
      add(exponential<(kPolynomials > 2)>(exponent(d.y, c[0].y)), d.y, c[1].y, gx[1], gw);
      add(exponential<(kPolynomials > 1)>(exponent(d.z, c[0].z)), d.z, c[1].z, gx[2], gw);
      add(exponential<(kPolynomials > 0)>(exponent(d.w, c[0].w)), d.w, c[1].w, gx[3], gw);
    }
  }
  __device__ float exponent(float d, float c) const { return fmaf(power, log2_fast(fabsf(d)), c); }
  __device__ float above(float v) const {
    const float y = fmaf(power, log2_fast(fabsf(v)), cutoff);
    return exp2_fast(y > 0 ? 0.f : y);
  }
  template <bool kPolynomial>
  __device__ static float exponential(float y) {
    if constexpr (kPolynomial) {
      const Split power = exp2_split(y);
      return power.q * power.scale;
    } else {
      return exp2_fast(y);
    }
  }
  __device__ static void add(float t, float d, float g, float& gx, float& gw) {
    t = copysignf(t, d);
    gx = fmaf(t, g, gx);
    gw = fmaf(t, g, gw);
  }
};

struct PowerShapes {
  Sizes n;
  int warps;               // of a block
  int64_t padded;          // samples in the coefficients: whole blocks
  int64_t neurons, tiles;  // of a segment: neurons, blocks of samples

  __host__ __device__ int samples() const { return warps * kSamples; }
};

// coefficients(c, j, b) for every pair, from row-major grad and distance; those of samples that do not
// exist add nothing. Transposed through shared memory, 32 × 32 at a time.
template <class Term>
__global__ void __launch_bounds__(256)
    power_coefficients(const Term term, const float* grad, const float* distance,
                       float* coefficients, Sizes n, int64_t padded) {
  if constexpr (Term::kConditional)
    if (term.done()) return;
  __shared__ float tile[Term::kCoefficients][32][33];
  const int64_t b0 = int64_t(blockIdx.x) * 32, j0 = int64_t(blockIdx.y) * 32;
  const int lane = threadIdx.x % 32;
  for (int r = threadIdx.x / 32; r < 32; r += 8) {
    const bool valid = b0 + r < n.batch && j0 + lane < n.out_features;
    const int64_t at = valid ? (b0 + r) * n.out_features + j0 + lane : -1;
    float c[Term::kCoefficients];
    term.coefficients(valid ? grad[at] : 0.f, valid ? distance[at] : 0.f, at, c);
#pragma unroll
    for (int i = 0; i < Term::kCoefficients; ++i) tile[i][r][lane] = c[i];
  }
  __syncthreads();
  for (int r = threadIdx.x / 32; r < 32; r += 8)
    if (j0 + r < n.out_features)
#pragma unroll
      for (int i = 0; i < Term::kCoefficients; ++i)
        coefficients[(i * n.out_features + j0 + r) * padded + b0 + lane] = tile[i][lane][r];
}

template <class Term>
__global__ void __launch_bounds__(32 * kMostWarps)
    power_gradients(const Term term, const float* x, const float* weight, const float* coefficients,
                    float* grad_x, float* grad_weight, const PowerShapes shapes) {
  if constexpr (Term::kConditional)
    if (term.done()) return;
  constexpr int kC = Term::kCoefficients;
  const int64_t features = shapes.n.in_features, outputs = shapes.n.out_features;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, samples = shapes.samples();
  const int64_t i = int64_t(blockIdx.x) * 32 + lane;
  const int64_t j0 = blockIdx.y * shapes.neurons, j1 = min(outputs, j0 + shapes.neurons);
  float* const c_slices = dynamic_shared<float>();                 // [2][kC][kNeurons][samples]
  float* const w_slices = c_slices + 2 * kC * kNeurons * samples;  // [2][kNeurons][32]
  float* const sums = w_slices + 2 * kNeurons * 32;                // [2][warps][kNeurons][32]
  grad_x += blockIdx.y * shapes.n.batch * features;
  grad_weight += blockIdx.z * outputs * features;

  const int64_t first_tile = blockIdx.z * shapes.tiles;
  for (int64_t tile = first_tile; tile < first_tile + shapes.tiles; ++tile) {
    const int64_t b0 = tile * samples;
    if (b0 >= shapes.n.batch) break;
    const int64_t own = b0 + warp * kSamples;
    float row[kSamples], gx[kSamples];
#pragma unroll
    for (int s = 0; s < kSamples; ++s) {
      row[s] = i < features && own + s < shapes.n.batch ? x[(own + s) * features + i] : 0.f;
      gx[s] = 0.f;
    }

    // Warps share the slice's rows out.
    const auto copy = [&](int64_t j, int buffer) {
      const int last = shapes.warps - 1 - warp;  // the first warps write() meanwhile
      for (int line = last; line < kC * kNeurons; line += shapes.warps) {
        const int64_t neuron = j + line % kNeurons;
        const bool valid = neuron < j1;
        const float* from =
            coefficients + (line / kNeurons * outputs + (valid ? neuron : 0)) * shapes.padded + b0;
        float* const to = c_slices + (buffer * kC * kNeurons + line) * samples;
        for (int s = 4 * lane; s < samples; s += 4 * 32) copy_async<16>(to + s, from + s, valid);
      }
      for (int line = last; line < kNeurons; line += shapes.warps) {
        const bool valid = j + line < j1 && i < features;
        copy_async<4>(w_slices + (buffer * kNeurons + line) * 32 + lane,
                      weight + (valid ? (j + line) * features + i : 0), valid);
      }
      commit_copies();
    };
    // Of the eight neurons from j on, over the block's warps.
    const auto write = [&](int64_t j, int buffer) {
      for (int line = warp; line < kNeurons; line += shapes.warps) {
        if (j + line >= j1 || i >= features) continue;
        const float* sum = sums + (buffer * shapes.warps * kNeurons + line) * 32 + lane;
        float total = 0;
        for (int v = 0; v < shapes.warps; ++v, sum += kNeurons * 32) total += *sum;
        float& out = grad_weight[(j + line) * features + i];
        out = tile == first_tile ? -total : out - total;
      }
    };

    copy(j0, 0);
    int buffer = 0;
    for (int64_t j = j0; j < j1; j += kNeurons, buffer ^= 1) {
      wait_copies<0>();
      __syncthreads();  // this slice is here; the one before is done with, and its sums are complete
      if (j + kNeurons < j1) copy(j + kNeurons, buffer ^ 1);
      if (j > j0) write(j - kNeurons, buffer ^ 1);
      const float* c = c_slices + buffer * kC * kNeurons * samples + warp * kSamples;
      const float* w = w_slices + buffer * kNeurons * 32 + lane;
      float* sum = sums + (buffer * shapes.warps + warp) * kNeurons * 32 + lane;
      const int count = j1 - j < kNeurons ? int(j1 - j) : kNeurons;
#pragma unroll 1
      for (int neuron = 0; neuron < count; ++neuron, c += samples) {
        float gw = 0;
        const bool seen = term.look(c);
#pragma unroll
        for (int s = 0; s < kSamples; s += 4) {
          float4 four[kC];
#pragma unroll
          for (int at = 0; at < kC; ++at)
            four[at] = *reinterpret_cast<const float4*>(c + at * kNeurons * samples + s);
          term.add(reinterpret_cast<const float (&)[4]>(row[s]), w[neuron * 32], four,
                   reinterpret_cast<float (&)[4]>(gx[s]), gw, seen);
        }
        sum[neuron * 32] = gw;
      }
    }
    __syncthreads();
    write(j1 - 1 - (j1 - 1 - j0) % kNeurons, buffer ^ 1);
#pragma unroll
    for (int s = 0; s < kSamples; ++s)
      if (i < features && own + s < shapes.n.batch) grad_x[(own + s) * features + i] = gx[s];
    __syncthreads();  // before the next tile's slices come
  }
}

}  // namespace linfdist::cuda
