// Every kernel once, on arrays from the heap, as a program of its own: a sanitizer built into it sees
// each access of each thread. AddressSanitizer finds what is outside an array or read after its end,
// ThreadSanitizer whatever two threads of a block do to one address with no barrier between them.
//
// check_memory BATCH OUT IN [BATCH OUT IN …]
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>

#include "block.h"
#include "cuda/adamw.h"
#include "cuda/kernels.h"
#include "cuda/lse.h"

namespace {

using linfdist::Sizes;

// `count` values, different ones for each seed; the array ends where the heap's block does.
template <class T>
std::unique_ptr<T[]> values(int64_t count, int seed) {
  std::unique_ptr<T[]> out(new T[count]);
  for (int64_t i = 0; i < count; ++i) out[i] = T(std::sin(0.7 * double(i + 1) * seed));
  return out;
}

template <class T, class Factor>
void run_factors(const T* x, Sizes n) {
  const std::unique_ptr<Factor[]> factors(new Factor[2 * n.batch * n.in_features]);
  const std::unique_ptr<T[]> reach(new T[n.batch]), grad(new T[n.batch * n.in_features]);
  const auto products = values<T>(2 * n.batch * n.in_features, 6);
  linfdist::cuda::lse_factors(x, x, factors.get(), reach.get(), n.batch, n.in_features, 4.0, -100.0,
                              nullptr);
  linfdist::cuda::lse_combine(products.get(), factors.get(), grad.get(), n.batch, n.in_features,
                              nullptr);
}

template <class T>
void run_all(Sizes n) {
  const int64_t pairs = n.batch * n.out_features;
  const auto x = values<T>(n.batch * n.in_features, 1);
  const auto weight = values<T>(n.out_features * n.in_features, 2);
  const auto grad = values<T>(pairs, 3);
  const auto exp_avg = values<T>(n.out_features * n.in_features, 4);
  const auto exp_avg_sq = values<T>(n.out_features * n.in_features, 5);
  const auto upper = values<T>(n.batch * n.in_features, 1);
  for (int64_t i = 0; i < n.batch * n.in_features; ++i) upper[i] += T(0.1);
  const std::unique_ptr<T[]> distance(new T[pairs]), high(new T[pairs]);
  const std::unique_ptr<T[]> to_x(new T[n.batch * n.in_features]);
  const std::unique_ptr<T[]> to_weight(new T[n.out_features * n.in_features]);
  const std::unique_ptr<int32_t[]> index(new int32_t[pairs]);

  const double infinity = std::numeric_limits<double>::infinity();
  for (double p : {1.0, 8.0, 8.7, 100.0, infinity}) {
    const std::unique_ptr<char[]> workspace(
        new char[linfdist::cuda::backward_workspace(n, p, sizeof(T))]);
    int32_t* const indices = std::isinf(p) ? index.get() : nullptr;
    linfdist::cuda::forward(x.get(), weight.get(), distance.get(), nullptr, n, p, nullptr);
    if (indices)
      linfdist::cuda::forward(x.get(), weight.get(), distance.get(), indices, n, p, nullptr);
    linfdist::cuda::backward(grad.get(), x.get(), weight.get(), distance.get(), indices, to_x.get(),
                             to_weight.get(), workspace.get(), n, p, nullptr);
  }
  for (double p : {2.0, 8.7, infinity})
    linfdist::cuda::adamw(weight.get(), to_weight.get(), exp_avg.get(), exp_avg_sq.get(),
                          n.out_features, n.in_features,
                          linfdist::AdamW<T>::at(p, 1e-4, 0.02, 0.9, 0.99, 1e-10, 1), nullptr);
  const int32_t fits[] = {0, 1};
  const std::unique_ptr<char[]> workspace(new char[linfdist::cuda::lse_workspace(n, sizeof(T))]);
  for (const int32_t& flag : fits)
    for (double t : {0.5, 50.0}) {
      linfdist::cuda::lse_forward(x.get(), weight.get(), distance.get(), high.get(), &flag, n, t,
                                  nullptr);
      linfdist::cuda::lse_backward(grad.get(), x.get(), weight.get(), high.get(), to_x.get(),
                                   to_weight.get(), workspace.get(), &flag, n, t, nullptr);
    }
  run_factors<T, T>(x.get(), n);
  if constexpr (sizeof(T) == sizeof(float)) run_factors<T, linfdist::cuda::BFloat16>(x.get(), n);
  linfdist::cuda::interval(x.get(), upper.get(), weight.get(), distance.get(), high.get(), n,
                           nullptr);
}

}  // namespace

int main(int count, char** arguments) {
  emulator::settings.multiprocessors = 8;  // fewer and longer segments
  for (int i = 1; i + 2 < count; i += 3) {
    const Sizes n{std::atoll(arguments[i]), std::atoll(arguments[i + 1]),
                  std::atoll(arguments[i + 2])};
    run_all<float>(n);
    run_all<double>(n);
    std::printf("%lld x %lld x %lld\n", (long long)n.batch, (long long)n.out_features,
                (long long)n.in_features);
  }
}
