// The backward ops in float: shapes, workspace, and which term.
#include <cmath>

#include "cuda/first_backward.cuh"
#include "cuda/kernels.h"
#include "cuda/lse.cuh"
#include "cuda/lse.h"
#include "cuda/powers_backward.cuh"

namespace linfdist::cuda {
namespace {

// As in the forward pass; later, because fewer terms are left out.
constexpr double kSkipFrom = 150;

int coefficient_count(double p) { return p == 1 || p == 2 || p == 4 || p == 8 ? 1 : 2; }

size_t shared_bytes(int warps, int coefficients) {
  return sizeof(float) * (2 * coefficients * kNeurons * warps * kSamples + 2 * kNeurons * 32 +
                          2 * warps * kNeurons * 32);
}

// Everything that sizes the launch and the workspace.
struct Plan {
  PowerShapes shapes;
  int neuron_segments, sample_segments;
  float* coefficient;
  Segmented<float> x, weight;
  int64_t bytes;

  Plan(Sizes n, int coefficients, float* grad_x, float* grad_weight, void* memory) {
    int warps = int(std::min<int64_t>(kMostWarps, (n.batch + kSamples - 1) / kSamples));
    const size_t limit = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    while (warps > 1 && shared_bytes(warps, coefficients) > limit) --warps;
    // As few tiles as that allows, their samples shared out evenly, in whole fours of warps.
    int64_t tiles = blocks(n.batch, warps * kSamples);
    warps = std::min(warps, 4 * int(blocks(blocks(n.batch, tiles), 4 * kSamples)));
    const int64_t samples = warps * kSamples;
    tiles = blocks(n.batch, samples);
    const int64_t columns = blocks(n.in_features, 32);
    // A neuron's or sample's step costs some ten times its row of partial sums.
    constexpr double kPasses = 10;
    sample_segments = segments_for(columns, tiles, 1, kPasses / double(samples));
    neuron_segments = segments_for(columns * sample_segments, n.out_features, 64, kPasses);
    const int64_t each = (n.out_features + neuron_segments - 1) / neuron_segments;
    const int64_t tiles_each = (tiles + sample_segments - 1) / sample_segments;
    sample_segments = int((tiles + tiles_each - 1) / tiles_each);
    const int64_t neurons = (each + kNeurons - 1) / kNeurons * kNeurons;
    neuron_segments = int((n.out_features + neurons - 1) / neurons);
    shapes = {n, warps, tiles * samples, neurons, tiles_each};
    Workspace workspace(memory);
    coefficient = workspace.take<float>(coefficients * n.out_features * shapes.padded);
    x = workspace.segmented(grad_x, n.batch * n.in_features, neuron_segments);
    weight = workspace.segmented(grad_weight, n.out_features * n.in_features, sample_segments);
    bytes = workspace.bytes();
  }
};

template <class Term>
void gradients(const Term& term, const float* grad, const float* x, const float* weight,
               const float* distance, const Plan& plan, void* stream,
               const int32_t* done = nullptr) {
  const PowerShapes& shapes = plan.shapes;
  const Sizes& n = shapes.n;
  launch(power_coefficients<Term>, dim3(blocks(shapes.padded, 32), blocks(n.out_features, 32)),
         dim3(256), 0, stream, term, grad, distance, plan.coefficient, n, shapes.padded);
  launch(power_gradients<Term>,
         dim3(blocks(n.in_features, 32), unsigned(plan.neuron_segments),
              unsigned(plan.sample_segments)),
         dim3(32 * shapes.warps), shared_bytes(shapes.warps, Term::kCoefficients), stream, term, x,
         weight, static_cast<const float*>(plan.coefficient), plan.x.target(), plan.weight.target(),
         shapes);
  plan.x.add(stream, done);
  plan.weight.add(stream, done);
}

}  // namespace

int64_t backward_workspace(Sizes n, double p, int64_t bytes_per_element) {
  const bool single = bytes_per_element == sizeof(float);
  if (std::isinf(p))
    return single ? FirstPlan<float>(n, nullptr, nullptr, nullptr).bytes
                  : FirstPlan<double>(n, nullptr, nullptr, nullptr).bytes;
  return single ? Plan(n, coefficient_count(p), nullptr, nullptr, nullptr).bytes : 0;
}

void backward(const float* grad, const float* x, const float* weight, const float* distance,
              const int32_t* index, float* grad_x, float* grad_weight, void* workspace, Sizes n,
              double p, void* stream) {
  if (std::isinf(p))
    return first_backward(grad, x, weight, index, grad_x, grad_weight, workspace, n, stream);
  const Plan plan(n, coefficient_count(p), grad_x, grad_weight, workspace);
  const auto run = [&](const auto& term) {
    gradients(term, grad, x, weight, distance, plan, stream);
  };
  const double cutoff = kBackwardCutoff<float>;
  const float power = float(p - 1), ratio = float(ratio_cutoff(p - 1, cutoff));
  if (p == 1)
    run(PowerTerm<1>{});
  else if (p == 2)
    run(PowerTerm<2>{});
  else if (p == 4)
    run(PowerTerm<4>{});
  else if (p == 8)
    run(PowerTerm<8>{});
  else if (p < kSkipFrom)
    run(RealTerm<false>{power, float(cutoff), ratio});
  else
    run(RealTerm<true>{power, float(cutoff), ratio});
}

int64_t lse_workspace(Sizes n, int64_t bytes_per_element) {
  const int64_t plan = bytes_per_element == sizeof(float)
                           ? Plan(n, LogSumExpTerm::kCoefficients, nullptr, nullptr, nullptr).bytes
                           : 0;
  Workspace workspace(nullptr);
  workspace.take<char>(n.batch * n.out_features * bytes_per_element);
  return workspace.bytes() + plan;
}

void lse_backward(const float* grad, const float* x, const float* weight, const float* total,
                  float* grad_x, float* grad_weight, void* memory, const int32_t* fits, Sizes n,
                  double t, void* stream) {
  Workspace workspace(memory);
  float* const top = workspace.take<float>(n.batch * n.out_features);
  lse_tops(x, weight, top, fits, n, stream);
  const Plan plan(n, LogSumExpTerm::kCoefficients, grad_x, grad_weight, workspace.rest());
  gradients(LogSumExpTerm(total, fits, t), grad, x, weight, top, plan, stream, fits);
}

}  // namespace linfdist::cuda
