// The ops in float64, which is for gradcheck and for oracles: plain, each an Op of reduce_tiles.
#include <cmath>

#include "cuda/first_backward.cuh"
#include "cuda/kernels.h"
#include "cuda/lse.h"
#include "cuda/tiles.cuh"

namespace linfdist::cuda {
namespace {

// distance(m, n) = max_k |x(m, k) − w(n, k)|; a NaN stays.
template <bool kIndex>
struct Maximum {
  using A = double;
  using B = double;
  struct State {
    double top;
    int32_t index;
  };
  static constexpr bool kAContiguousInK = true, kBContiguousInK = true;
  const double *x, *weight;
  double* distance;
  int32_t* index;
  Sizes n;

  __device__ double a(int64_t m, int64_t k) const { return x[m * n.in_features + k]; }
  __device__ double b(int64_t j, int64_t k) const { return weight[j * n.in_features + k]; }
  __device__ State start(int64_t, int64_t) const { return {double(0), 0}; }
  __device__ void step(State& s, double a, double b, int64_t k, int64_t) const {
    const double d = fabs(a - b);
    if (s.top == s.top && (d > s.top || d != d)) {  // the first NaN stays
      s.top = d;
      if constexpr (kIndex) s.index = int32_t(k);
    }
  }
  __device__ void finish(int64_t m, int64_t j, const State& s) const {
    distance[m * n.out_features + j] = s.top;
    if constexpr (kIndex) index[m * n.out_features + j] = s.index;
  }
};

// distance(m, n), the maximum before, becomes max · (Σ_k (|d| / max)^p)^(1/p).
template <int P>
struct PowerSum {
  using A = double;
  using B = double;
  struct State {
    double sum, inverse;
  };
  static constexpr bool kAContiguousInK = true, kBContiguousInK = true;
  const double *x, *weight;
  double* distance;
  Sizes n;
  double p;

  __device__ double a(int64_t m, int64_t k) const { return x[m * n.in_features + k]; }
  __device__ double b(int64_t j, int64_t k) const { return weight[j * n.in_features + k]; }
  __device__ State start(int64_t m, int64_t j) const {
    return {double(0), double(1) / distance[m * n.out_features + j]};
  }
  __device__ void step(State& s, double a, double b, int64_t, int64_t) const {
    s.sum += power<P>(fabs(a - b) * s.inverse, p);
  }
  __device__ void finish(int64_t m, int64_t j, const State& s) const {
    double& out = distance[m * n.out_features + j];
    const double top = out;
    if (!(top > 0) || isinf(top)) return;  // 0, infinity and NaN are the norm already
    double sum = s.sum;
    if (top < kSmallest<double>) {  // the inverse was infinite: once more, by division
      sum = 0;
      for (int64_t k = 0; k < n.in_features; ++k) sum += power<P>(fabs(a(m, k) - b(j, k)) / top, p);
    }
    out = top * power<0>(sum, double(1) / p);
  }
};

struct Weighted {
  double grad, inverse;
};

// Σ_k g (|d| / distance)^(p−1) sign(d), d = own(m, n) − other(k, n). kOfWeight: m is a neuron and k a
// sample; otherwise m is a sample and k a neuron. P − 1 is the power, −1 a real one.
template <int P, bool kOfWeight>
struct PowerGradient {
  using A = Weighted;
  using B = double;
  struct State {
    double sum, own;
  };
  static constexpr bool kAContiguousInK = !kOfWeight, kBContiguousInK = false;
  const double *grad, *distance, *own, *other;
  double* out;
  Sizes n;
  double p;

  __device__ A a(int64_t m, int64_t k) const {
    const int64_t at = kOfWeight ? k * n.out_features + m : m * n.out_features + k;
    const double norm = distance[at];
    return {norm < INFINITY ? grad[at] : double(NAN),
            norm >= kSmallest<double> ? double(1) / norm : double(0)};
  }
  __device__ double b(int64_t i, int64_t k) const { return other[k * n.in_features + i]; }
  __device__ State start(int64_t m, int64_t i) const {
    return {double(0), own[m * n.in_features + i]};
  }
  __device__ void step(State& s, A a, double b, int64_t, int64_t) const {
    const double d = s.own - b;
    double t;
    if constexpr (P == 1)
      t = double(1);
    else
      t = power<P == 0 ? 0 : P - 1>(fabs(d) * a.inverse, p - 1);
    s.sum += copysign(d == 0 ? double(0) : t, d) * a.grad;
  }
  __device__ void finish(int64_t m, int64_t i, const State& s) const {
    out[m * n.in_features + i] = s.sum;
  }
};

// top + log(total) / t and total = Σ_k e^(t(|d| − top)) + e^(−t(|d| + top)), top the largest |d| so far.
struct LogSumExp {
  using A = double;
  using B = double;
  struct State {
    double sum, top;
  };
  static constexpr bool kAContiguousInK = true, kBContiguousInK = true;
  const double *x, *weight;
  double *distance, *total;
  Sizes n;
  double t;

  __device__ double a(int64_t m, int64_t k) const { return x[m * n.in_features + k]; }
  __device__ double b(int64_t j, int64_t k) const { return weight[j * n.in_features + k]; }
  __device__ State start(int64_t, int64_t) const { return {0, 0}; }
  __device__ void step(State& s, double a, double b, int64_t, int64_t) const {
    const double d = fabs(a - b);
    if (s.top == s.top && !(d <= s.top)) {  // a NaN stays
      s.sum *= exp(t * (s.top - d));
      s.top = d;
    }
    s.sum += exp(t * (d - s.top)) + exp(-t * (d + s.top));
  }
  __device__ void finish(int64_t m, int64_t j, const State& s) const {
    const bool finite = s.top < INFINITY;
    distance[m * n.out_features + j] = finite ? s.top + log(s.sum) / t : s.top;
    total[m * n.out_features + j] = finite ? s.sum : s.top;
  }
};

struct Share {
  double grad, top;
};

// Σ_k g / total sign(d) (e^(t(|d| − top)) − e^(−t(|d| + top))); the rest as for PowerGradient.
template <bool kOfWeight>
struct LogSumExpGradient {
  using A = Share;
  using B = double;
  struct State {
    double sum, own;
  };
  static constexpr bool kAContiguousInK = !kOfWeight, kBContiguousInK = false;
  const double *grad, *total, *top, *own, *other;
  double* out;
  Sizes n;
  double t;

  __device__ A a(int64_t m, int64_t k) const {
    const int64_t at = kOfWeight ? k * n.out_features + m : m * n.out_features + k;
    return {top[at] < INFINITY ? grad[at] / total[at] : double(NAN), top[at]};
  }
  __device__ double b(int64_t i, int64_t k) const { return other[k * n.in_features + i]; }
  __device__ State start(int64_t m, int64_t i) const {
    return {double(0), own[m * n.in_features + i]};
  }
  __device__ void step(State& s, A a, double b, int64_t, int64_t) const {
    const double d = s.own - b, r = fabs(d);
    s.sum += copysign(exp(t * (r - a.top)) - exp(-t * (r + a.top)), d) * a.grad;
  }
  __device__ void finish(int64_t m, int64_t i, const State& s) const {
    out[m * n.in_features + i] = s.sum;
  }
};

struct Box {
  double lower, upper;
};

// The range of the distance on a box; a NaN stays in both bounds.
struct Interval {
  using A = Box;
  using B = double;
  using State = Box;
  static constexpr bool kAContiguousInK = true, kBContiguousInK = true;
  const double *lower, *upper, *weight;
  double *distance_lower, *distance_upper;
  Sizes n;

  __device__ A a(int64_t m, int64_t k) const {
    return {lower[m * n.in_features + k], upper[m * n.in_features + k]};
  }
  __device__ double b(int64_t j, int64_t k) const { return weight[j * n.in_features + k]; }
  __device__ State start(int64_t, int64_t) const { return {double(0), double(0)}; }
  __device__ void step(State& s, A a, double b, int64_t, int64_t) const {
    const double below = a.lower - b, above = b - a.upper;
    if (below != below || above != above) {
      s.lower = s.upper = below + above;
    } else {
      if (below > s.lower) s.lower = below;
      if (above > s.lower) s.lower = above;
      if (-below > s.upper) s.upper = -below;
      if (-above > s.upper) s.upper = -above;
    }
  }
  __device__ void finish(int64_t m, int64_t j, const State& s) const {
    distance_lower[m * n.out_features + j] = s.lower;
    distance_upper[m * n.out_features + j] = s.upper;
  }
};

template <class Op>
void reduce(const Op& op, int64_t M, int64_t N, int64_t K, void* stream,
            const int32_t* done = nullptr) {
  launch(reduce_tiles<Op>, dim3(blocks(M, kTile), blocks(N, kTile)), dim3(kSide, kSide), 0, stream,
         op, M, N, K, done);
}

// Calls run<P>() with P = p for the integers that have a fast power, P = 0 for the rest.
template <class Run>
void with_power(double p, const Run& run) {
  if (p == 1)
    run.template operator()<1>();
  else if (p == 2)
    run.template operator()<2>();
  else if (p == 4)
    run.template operator()<4>();
  else if (p == 8)
    run.template operator()<8>();
  else
    run.template operator()<0>();
}

}  // namespace

void forward(const double* x, const double* weight, double* distance, int32_t* index, Sizes n,
             double p, void* stream) {
  if (index)
    return reduce(Maximum<true>{x, weight, distance, index, n}, n.batch, n.out_features,
                  n.in_features, stream);
  reduce(Maximum<false>{x, weight, distance, nullptr, n}, n.batch, n.out_features, n.in_features,
         stream);
  if (std::isinf(p)) return;
  with_power(p, [&]<int P>() {
    reduce(PowerSum<P>{x, weight, distance, n, p}, n.batch, n.out_features, n.in_features, stream);
  });
}

void backward(const double* grad, const double* x, const double* weight, const double* distance,
              const int32_t* index, double* grad_x, double* grad_weight, void* workspace, Sizes n,
              double p, void* stream) {
  if (std::isinf(p))
    return first_backward(grad, x, weight, index, grad_x, grad_weight, workspace, n, stream);
  with_power(p, [&]<int P>() {
    reduce(PowerGradient<P, false>{grad, distance, x, weight, grad_x, n, p}, n.batch, n.in_features,
           n.out_features, stream);
    reduce(PowerGradient<P, true>{grad, distance, weight, x, grad_weight, n, p}, n.out_features,
           n.in_features, n.batch, stream);
  });
}

void interval(const double* lower, const double* upper, const double* weight,
              double* distance_lower, double* distance_upper, Sizes n, void* stream) {
  reduce(Interval{lower, upper, weight, distance_lower, distance_upper, n}, n.batch, n.out_features,
         n.in_features, stream);
}

void lse_forward(const double* x, const double* weight, double* distance, double* total,
                 const int32_t* fits, Sizes n, double t, void* stream) {
  reduce(LogSumExp{x, weight, distance, total, n, t}, n.batch, n.out_features, n.in_features,
         stream, fits);
}

void lse_backward(const double* grad, const double* x, const double* weight, const double* total,
                  double* grad_x, double* grad_weight, void* workspace, const int32_t* fits,
                  Sizes n, double t, void* stream) {
  double* const top = static_cast<double*>(workspace);
  reduce(Maximum<false>{x, weight, top, nullptr, n}, n.batch, n.out_features, n.in_features, stream,
         fits);
  reduce(LogSumExpGradient<false>{grad, total, top, x, weight, grad_x, n, t}, n.batch,
         n.in_features, n.out_features, stream, fits);
  reduce(LogSumExpGradient<true>{grad, total, top, weight, x, grad_weight, n, t}, n.out_features,
         n.in_features, n.batch, stream, fits);
}

}  // namespace linfdist::cuda
