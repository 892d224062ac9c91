// The forward ops in float: which norm, which mainloop.
#include <algorithm>

#include "cuda/distances.cuh"
#include "cuda/kernels.h"
#include "cuda/lse.cuh"
#include "cuda/lse.h"

namespace linfdist::cuda {
namespace {

// From this p on enough differences do not count beside the largest for looking first to pay: by
// counting instructions, for Gaussian differences.
constexpr double kSkipFrom = 96;
// Fewer tiles than this leave most of a GPU idle; and thin ones are mostly padding.
constexpr int64_t kFewTiles = 48, kThin = kTile / 2, kLong = 128;

bool aligned(const float* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; }

bool vectors(const float* x, const float* weight, Sizes n) {
  return n.in_features % 4 == 0 && aligned(x) && aligned(weight);
}

template <class Norm>
void reduce(const Norm& norm, const Operands<Norm>& in, void* stream) {
  const Sizes& n = in.n;
  const dim3 tiles(blocks(n.batch, kTile), blocks(n.out_features, kTile));
  const bool thin = std::min(n.batch, n.out_features) <= kThin && n.in_features >= kLong;
  if (!thin && int64_t(tiles.x) * tiles.y >= kFewTiles)
    launch(distance_tiles<Norm>, tiles, dim3(kThreads), 0, stream, norm, in);
  else if (n.out_features <= n.batch)
    launch(distance_rows<Norm, true>,
           dim3(blocks(n.batch, kRowWarps), blocks(n.out_features, kRowOutputs)),
           dim3(32 * kRowWarps), 0, stream, norm, in);
  else
    launch(distance_rows<Norm, false>,
           dim3(blocks(n.out_features, kRowWarps), blocks(n.batch, kRowOutputs)),
           dim3(32 * kRowWarps), 0, stream, norm, in);
}

template <int P>
void power_sum(const float* x, const float* weight, float* distance, Sizes n, bool vectors,
               void* stream) {
  reduce<PowerSum<P>>({x, weight, distance, n.out_features, int(n.in_features)},
                      {{x}, weight, n, vectors}, stream);
}

template <bool kSkips>
void real_power_sum(const float* x, const float* weight, float* distance, Sizes n, double p,
                    bool vectors, void* stream) {
  const float ratio = float(ratio_cutoff(p, kForwardCutoff<float>));
  reduce<RealPowerSum<kSkips>>(
      {x, weight, distance, n.out_features, int(n.in_features), float(p), ratio},
      {{x}, weight, n, vectors}, stream);
}

}  // namespace

void forward(const float* x, const float* weight, float* distance, int32_t* index, Sizes n,
             double p, void* stream) {
  constexpr double kAlmostInfinite = 1e8;  // n^(1/p) is 1 in float for any n
  const bool vectors = cuda::vectors(x, weight, n);
  if (index)
    reduce<FirstMaximum<kSlice>>({x, weight, distance, index, n, vectors},
                                 {{x}, weight, n, vectors}, stream);
  else if (p >= kAlmostInfinite)
    reduce<Maximum>({distance, n.out_features}, {{x}, weight, n, vectors}, stream);
  else if (p == 1)
    power_sum<1>(x, weight, distance, n, vectors, stream);
  else if (p == 2)
    power_sum<2>(x, weight, distance, n, vectors, stream);
  else if (p == 4)
    power_sum<4>(x, weight, distance, n, vectors, stream);
  else if (p == 8)
    power_sum<8>(x, weight, distance, n, vectors, stream);
  else if (p < kSkipFrom)
    real_power_sum<false>(x, weight, distance, n, p, vectors, stream);
  else
    real_power_sum<true>(x, weight, distance, n, p, vectors, stream);
}

void interval(const float* lower, const float* upper, const float* weight, float* distance_lower,
              float* distance_upper, Sizes n, void* stream) {
  const bool vectors = cuda::vectors(lower, weight, n) && aligned(upper);
  reduce<Interval>({distance_lower, distance_upper, n.out_features},
                   {{lower, upper}, weight, n, vectors}, stream);
}

void lse_forward(const float* x, const float* weight, float* distance, float* total,
                 const int32_t* fits, Sizes n, double t, void* stream) {
  reduce<LogSumExp>({distance, total, fits, n, t}, {{x}, weight, n, vectors(x, weight, n)}, stream);
}

void lse_tops(const float* x, const float* weight, float* top, const int32_t* fits, Sizes n,
              void* stream) {
  reduce<ConditionalMaximum>({top, fits, n.out_features}, {{x}, weight, n, vectors(x, weight, n)},
                             stream);
}

}  // namespace linfdist::cuda
