// The forward ops in float: which norm, which mainloop, how many outputs a thread.
#include <cmath>

#include "cuda_distances.cuh"
#include "cuda_kernels.h"

namespace linfdist::cuda {
namespace {

// From this p on few differences count beside the largest, and looking before the work pays.
constexpr double kSkipFrom = 32;
// Fewer tiles than this leave most of a GPU idle.
constexpr int64_t kFewTiles = 48;

// Registers decide how many outputs a thread holds: 8 × kColumns states.
template <int kColumns, int kBlocks, class Norm>
void reduce(const Norm& norm, const float* const (&x)[Norm::kPlanes], const float* weight, Sizes n,
            void* stream) {
  Operands<Norm> in{{}, weight, n, n.in_features % 4 == 0};
  for (int plane = 0; plane < Norm::kPlanes; ++plane) {
    in.x[plane] = x[plane];
    in.vectors = in.vectors && reinterpret_cast<uintptr_t>(x[plane]) % 16 == 0;
  }
  in.vectors = in.vectors && reinterpret_cast<uintptr_t>(weight) % 16 == 0;
  const dim3 tiles(blocks(n.batch, kTile), blocks(n.out_features, kTile));
  if (int64_t(tiles.x) * tiles.y >= kFewTiles)
    launch(distance_tiles<Norm, kColumns, kBlocks>, tiles, dim3(kTile / kRows * kTile / kColumns), 0,
           stream, norm, in);
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
void power_sum(const float* x, const float* weight, float* distance, Sizes n, void* stream) {
  reduce<8, 6>(PowerSum<P>{x, weight, distance, n.out_features, int(n.in_features)}, {x}, weight, n,
               stream);
}

template <bool kSkips>
void real_power_sum(const float* x, const float* weight, float* distance, Sizes n, double p,
                    void* stream) {
  const float ratio = float(ratio_cutoff(p, kForwardCutoff<float>));
  reduce<4, 3>(RealPowerSum<kSkips>{x, weight, distance, n.out_features, int(n.in_features), float(p),
                                    ratio},
               {x}, weight, n, stream);
}

}  // namespace

void forward(const float* x, const float* weight, float* distance, int32_t* index, Sizes n, double p,
             void* stream) {
  if (index)
    reduce<4, 3>(FirstMaximum<kSlice>{x, weight, distance, index, n.out_features, int(n.in_features)},
                 {x}, weight, n, stream);
  else if (std::isinf(p))
    reduce<8, 6>(Maximum{distance, n.out_features}, {x}, weight, n, stream);
  else if (p == 1)
    power_sum<1>(x, weight, distance, n, stream);
  else if (p == 2)
    power_sum<2>(x, weight, distance, n, stream);
  else if (p == 4)
    power_sum<4>(x, weight, distance, n, stream);
  else if (p == 8)
    power_sum<8>(x, weight, distance, n, stream);
  else if (p < kSkipFrom)
    real_power_sum<false>(x, weight, distance, n, p, stream);
  else
    real_power_sum<true>(x, weight, distance, n, p, stream);
}

void interval(const float* lower, const float* upper, const float* weight, float* distance_lower,
              float* distance_upper, Sizes n, void* stream) {
  reduce<4, 3>(Interval{distance_lower, distance_upper, n.out_features}, {lower, upper}, weight, n,
               stream);
}

}  // namespace linfdist::cuda
