// The numeric core of one optimizer step, shared by the CPU and the CUDA kernel: the decay of a row
// of weights, then Adam with eps outside the root, as in torch.
//
// The l_p decay w −= rate (|w| / ‖w‖_p)^(p−2) w takes factor · sign(w) · t from each weight. With
// m = max|w| over the row and r = |w| / m, t is r^(p−1), the sum s = Σ t r = (‖w‖_p / m)^p and the
// factor rate · m · s^((2−p)/p): no power is above 1 and s is at least 1, so nothing overflows.
// At p = 2 this is plain decay, which needs no row; at p = ∞ the first largest weight alone decays.
// A row of zeros stays. The search for m passes a NaN by, the sum does not.
#pragma once

#include <cstdint>

#include "powers.h"

namespace linfdist {

enum class Decay { kPlain, kPower, kLargest };

template <class T>
struct AdamW {
  Decay decay;
  T rate, power, least, exponent;  // p − 1, the ratio from which t counts, (2 − p) / p
  T beta1, beta2, rest1, rest2, step_size, inverse_root, eps;  // rest = 1 − beta

  // `steps` counts this one. In double and rounded once, because 1 − beta^steps cancels.
  static AdamW at(double p, double rate, double lr, double beta1, double beta2, double eps,
                  int64_t steps) {
    return {.decay = p == 2 || rate == 0 ? Decay::kPlain
                     : std::isinf(p)     ? Decay::kLargest
                                         : Decay::kPower,
            .rate = T(rate),
            .power = T(p - 1),
            .least = T(ratio_cutoff(p - 1, kLeastCutoff<T>)),
            .exponent = T(2 / p - 1),
            .beta1 = T(beta1),
            .beta2 = T(beta2),
            .rest1 = T(1 - beta1),
            .rest2 = T(1 - beta2),
            .step_size = T(lr / (1 - std::pow(beta1, double(steps)))),
            .inverse_root = T(1 / std::sqrt(1 - std::pow(beta2, double(steps)))),
            .eps = T(eps)};
  }

  LINFDIST_HOST_DEVICE T plainly_decayed(T weight) const { return weight - rate * weight; }

  // t; never the logarithm of 0, so that a weight of 0 stays at p = 1 too.
  LINFDIST_HOST_DEVICE T raised(T ratio) const {
    return ratio > least ? std::exp2(power * std::log2(ratio)) : T(0);
  }

  LINFDIST_HOST_DEVICE T factor(T largest, T sum) const {
    return largest > 0 ? rate * largest * std::exp2(exponent * std::log2(sum)) : T(0);
  }

  LINFDIST_HOST_DEVICE T decayed(T weight, T t, T factor) const {
    return weight - std::copysign(t, weight) * factor;
  }

  LINFDIST_HOST_DEVICE void adam(T& weight, T grad, T& exp_avg, T& exp_avg_sq) const {
    exp_avg = beta1 * exp_avg + rest1 * grad;
    exp_avg_sq = beta2 * exp_avg_sq + rest2 * grad * grad;
    weight -= step_size * exp_avg / (std::sqrt(exp_avg_sq) * inverse_root + eps);
  }
};

}  // namespace linfdist
