// The ops on a GPU, each an Op of reduce_tiles. No fast-math: results are to equal the CPU's, at
// p = ∞ bit for bit.
//
// Cost per pair: p = ∞ a subtraction and a compare (twice that with the index); finite p the pass that
// finds the maximum, then one power for the forward pass and one for each gradient.
#include <cuda_runtime.h>

#include <cfloat>
#include <stdexcept>
#include <string>

#include "cuda_kernels.h"
#include "cuda_tiles.cuh"
#include "powers.h"

namespace linfdist {
namespace cuda {
namespace {

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

// distance(m, n) = max_k |x(m, k) − w(n, k)|; a NaN stays.
template <class T, bool kIndex>
struct Maximum {
  using A = T;
  using B = T;
  struct State {
    T top;
    int32_t index;
  };
  static constexpr bool kAContiguousInK = true, kBContiguousInK = true;
  const T *x, *weight;
  T* distance;
  int32_t* index;
  Sizes n;

  __device__ T a(int64_t m, int64_t k) const { return x[m * n.in_features + k]; }
  __device__ T b(int64_t j, int64_t k) const { return weight[j * n.in_features + k]; }
  __device__ State start(int64_t, int64_t) const { return {T(0), 0}; }
  __device__ void step(State& s, T a, T b, int64_t k, int64_t) const {
    const T d = fabs(a - b);
    if (d > s.top || d != d) {
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
template <class T, int P>
struct PowerSum {
  using A = T;
  using B = T;
  struct State {
    T sum, inverse;
  };
  static constexpr bool kAContiguousInK = true, kBContiguousInK = true;
  const T *x, *weight;
  T* distance;
  Sizes n;
  T p;

  __device__ T a(int64_t m, int64_t k) const { return x[m * n.in_features + k]; }
  __device__ T b(int64_t j, int64_t k) const { return weight[j * n.in_features + k]; }
  __device__ State start(int64_t m, int64_t j) const {
    return {T(0), T(1) / distance[m * n.out_features + j]};
  }
  __device__ void step(State& s, T a, T b, int64_t, int64_t) const {
    s.sum += power<P>(fabs(a - b) * s.inverse, p);
  }
  __device__ void finish(int64_t m, int64_t j, const State& s) const {
    T& out = distance[m * n.out_features + j];
    const T top = out;
    if (!(top > 0) || isinf(top)) return;  // 0, infinity and NaN are the norm already
    T sum = s.sum;
    if (top < kSmallest<T>) {  // the inverse was infinite: once more, by division
      sum = 0;
      for (int64_t k = 0; k < n.in_features; ++k) sum += power<P>(fabs(a(m, k) - b(j, k)) / top, p);
    }
    out = top * power<0>(sum, T(1) / p);
  }
};

template <class T>
struct Weighted {
  T grad, inverse;
};

// Σ_k g (|d| / distance)^(p−1) sign(d), d = own(m, n) − other(k, n). kOfWeight: m is a neuron and k a
// sample; otherwise m is a sample and k a neuron. P − 1 is the power, −1 a real one.
template <class T, int P, bool kOfWeight>
struct PowerGradient {
  using A = Weighted<T>;
  using B = T;
  struct State {
    T sum, own;
  };
  static constexpr bool kAContiguousInK = !kOfWeight, kBContiguousInK = false;
  const T *grad, *distance, *own, *other;
  T* out;
  Sizes n;
  T p;

  __device__ A a(int64_t m, int64_t k) const {
    const int64_t at = kOfWeight ? k * n.out_features + m : m * n.out_features + k;
    const T norm = distance[at];
    return {grad[at], norm >= kSmallest<T> ? T(1) / norm : T(0)};
  }
  __device__ T b(int64_t i, int64_t k) const { return other[k * n.in_features + i]; }
  __device__ State start(int64_t m, int64_t i) const { return {T(0), own[m * n.in_features + i]}; }
  __device__ void step(State& s, A a, T b, int64_t, int64_t) const {
    const T d = s.own - b;
    T t;
    if constexpr (P == 1)
      t = T(1);
    else
      t = power<P == 0 ? 0 : P - 1>(fabs(d) * a.inverse, p - 1);
    s.sum += d == 0 ? T(0) : copysign(t, d) * a.grad;
  }
  __device__ void finish(int64_t m, int64_t i, const State& s) const {
    out[m * n.in_features + i] = s.sum;
  }
};

template <class T>
struct Chosen {
  T grad;
  int32_t index;
};

// The same at p = ∞: a pair counts where its recorded index is n.
template <class T, bool kOfWeight>
struct MaximumGradient {
  using A = Chosen<T>;
  using B = T;
  struct State {
    T sum, own;
  };
  static constexpr bool kAContiguousInK = !kOfWeight, kBContiguousInK = false;
  const T* grad;
  const int32_t* index;
  const T *own, *other;
  T* out;
  Sizes n;

  __device__ A a(int64_t m, int64_t k) const {
    const int64_t at = kOfWeight ? k * n.out_features + m : m * n.out_features + k;
    return {grad[at], index[at]};
  }
  __device__ T b(int64_t i, int64_t k) const { return other[k * n.in_features + i]; }
  __device__ State start(int64_t m, int64_t i) const { return {T(0), own[m * n.in_features + i]}; }
  __device__ void step(State& s, A a, T b, int64_t, int64_t i) const {
    if (a.index == i) s.sum += s.own > b ? a.grad : s.own < b ? -a.grad : T(0);
  }
  __device__ void finish(int64_t m, int64_t i, const State& s) const {
    out[m * n.in_features + i] = s.sum;
  }
};

template <class T>
struct Box {
  T lower, upper;
};

// The range of the distance on a box; a NaN stays in both bounds.
template <class T>
struct Interval {
  using A = Box<T>;
  using B = T;
  using State = Box<T>;
  static constexpr bool kAContiguousInK = true, kBContiguousInK = true;
  const T *lower, *upper, *weight;
  T *distance_lower, *distance_upper;
  Sizes n;

  __device__ A a(int64_t m, int64_t k) const {
    return {lower[m * n.in_features + k], upper[m * n.in_features + k]};
  }
  __device__ T b(int64_t j, int64_t k) const { return weight[j * n.in_features + k]; }
  __device__ State start(int64_t, int64_t) const { return {T(0), T(0)}; }
  __device__ void step(State& s, A a, T b, int64_t, int64_t) const {
    const T below = a.lower - b, above = b - a.upper;
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
void launch(const Op& op, int64_t M, int64_t N, int64_t K, void* stream) {
  const dim3 grid(unsigned((M + kTile - 1) / kTile), unsigned((N + kTile - 1) / kTile));
  reduce_tiles<Op><<<grid, dim3(kSide, kSide), 0, static_cast<cudaStream_t>(stream)>>>(op, M, N, K);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("linfdist: a CUDA kernel could not be launched: ") +
                             cudaGetErrorString(status) +
                             ". For a GPU that the build does not cover, reinstall with pip's -C "
                             "cmake.define.CMAKE_CUDA_ARCHITECTURES=native.");
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
}  // namespace cuda

template <class T>
void CudaKernels<T>::forward(const T* x, const T* weight, T* distance, int32_t* index, Sizes n,
                             double p, void* stream) {
  using namespace cuda;
  if (index)
    return launch(Maximum<T, true>{x, weight, distance, index, n}, n.batch, n.out_features,
                  n.in_features, stream);
  launch(Maximum<T, false>{x, weight, distance, nullptr, n}, n.batch, n.out_features, n.in_features,
         stream);
  if (std::isinf(p)) return;
  with_power(p, [&]<int P>() {
    launch(PowerSum<T, P>{x, weight, distance, n, T(p)}, n.batch, n.out_features, n.in_features,
           stream);
  });
}

template <class T>
void CudaKernels<T>::backward(const T* grad, const T* x, const T* weight, const T* distance,
                              const int32_t* index, T* grad_x, T* grad_weight, Sizes n, double p,
                              void* stream) {
  using namespace cuda;
  if (std::isinf(p)) {
    launch(MaximumGradient<T, false>{grad, index, x, weight, grad_x, n}, n.batch, n.in_features,
           n.out_features, stream);
    launch(MaximumGradient<T, true>{grad, index, weight, x, grad_weight, n}, n.out_features,
           n.in_features, n.batch, stream);
    return;
  }
  with_power(p, [&]<int P>() {
    launch(PowerGradient<T, P, false>{grad, distance, x, weight, grad_x, n, T(p)}, n.batch,
           n.in_features, n.out_features, stream);
    launch(PowerGradient<T, P, true>{grad, distance, weight, x, grad_weight, n, T(p)},
           n.out_features, n.in_features, n.batch, stream);
  });
}

template <class T>
void CudaKernels<T>::interval(const T* lower, const T* upper, const T* weight, T* distance_lower,
                              T* distance_upper, Sizes n, void* stream) {
  cuda::launch(cuda::Interval<T>{lower, upper, weight, distance_lower, distance_upper, n}, n.batch,
               n.out_features, n.in_features, stream);
}

template struct CudaKernels<float>;
template struct CudaKernels<double>;

}  // namespace linfdist
