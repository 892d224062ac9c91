// What every function of the module asks of its arguments before it touches memory. nanobind has
// matched dtype, number of axes, order and kind of device; here are shapes against each other, the
// device's number, where memory begins, and the numbers beside the arrays. Only metadata is read.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "cpu/kernels.h"

namespace linfdist {

constexpr const char* kSamplesName = "the number of samples";
constexpr const char* kNeuronsName = "the number of neurons";
constexpr const char* kFeaturesName = "the number of features";

// A failed check is std::invalid_argument, which nanobind raises as ValueError.
class Checks {
 public:
  // Every array must lie where `first` lies.
  template <class Array>
  Checks(const char* function, const Array& first)
      : function_(function), device_(first.device_id()) {}

  // Of a function without arrays.
  explicit Checks(const char* function) : function_(function), device_(0) {}

  template <class Array>
  const Checks& shape(const char* name, const Array& array,
                      std::initializer_list<int64_t> wanted) const {
    bool same = array.ndim() == wanted.size();
    size_t axis = 0;
    for (const int64_t size : wanted) same = same && int64_t(array.shape(axis++)) == size;
    if (!same) refuse(name, "have the shape " + text(wanted), text(array));
    return place(name, array);
  }

  // A matrix that says the sizes of others. No kernel takes an empty one.
  template <class Array>
  const Checks& matrix(const char* name, const Array& array) const {
    for (size_t axis = 0; axis < array.ndim(); ++axis)
      if (array.shape(axis) == 0) refuse(name, "not be empty", text(array));
    return place(name, array);
  }

  // So many bytes at least, on 16.
  template <class Array>
  const Checks& workspace(const char* name, const Array& array, int64_t bytes) const {
    if (int64_t(array.shape(0)) < bytes)
      refuse(name, "have at least " + std::to_string(bytes) + " bytes", text(array));
    if (bytes) begins_on(name, array.data(), 16);
    return place(name, array);
  }

  // Sizes that are kept in 32 bits.
  const Checks& fits(const char* name, int64_t size) const {
    if (size > std::numeric_limits<int32_t>::max())
      refuse(name, "be at most 2147483647", std::to_string(size));
    return *this;
  }

  const Checks& fits(Sizes n) const {
    return fits(kSamplesName, n.batch)
        .fits(kNeuronsName, n.out_features)
        .fits(kFeaturesName, n.in_features);
  }

  const Checks& at_least(const char* name, double value, double least) const {
    if (!(value >= least)) refuse(name, "be at least " + text(least), text(value));  // a NaN too
    return *this;
  }

  const Checks& equal(const char* name, int64_t value, int64_t wanted) const {
    if (value != wanted) refuse(name, "be " + std::to_string(wanted), std::to_string(value));
    return *this;
  }

  const Checks& below(const char* name, double value, double bound) const {
    if (!(value < bound)) refuse(name, "be below " + text(bound), text(value));
    return *this;
  }

  const Checks& above(const char* name, double value, double bound) const {
    if (!(value > bound)) refuse(name, "be above " + text(bound), text(value));
    return *this;
  }

 private:
  template <class Array>
  const Checks& place(const char* name, const Array& array) const {
    if (array.device_id() != device_)
      refuse(name, "be on device " + std::to_string(device_), std::to_string(array.device_id()));
    begins_on(name, array.data(), alignof(typename Array::Scalar));
    return *this;
  }

  void begins_on(const char* name, const void* at, size_t bytes) const {
    if (reinterpret_cast<uintptr_t>(at) % bytes)
      refuse(name, "begin on a multiple of " + std::to_string(bytes) + " bytes", "another address");
  }

  template <class Array>
  static std::string text(const Array& array) {
    std::string out = "(";
    for (size_t axis = 0; axis < array.ndim(); ++axis)
      out += (axis ? ", " : "") + std::to_string(array.shape(axis));
    return out + ")";
  }

  static std::string text(std::initializer_list<int64_t> sizes) {
    std::string out;
    for (const int64_t size : sizes) out += (out.empty() ? "(" : ", ") + std::to_string(size);
    return out + ")";
  }

  static std::string text(double value) {
    char out[32];
    std::snprintf(out, sizeof out, "%g", value);
    return out;
  }

  [[noreturn]] void refuse(const char* name, const std::string& wanted,
                           const std::string& got) const {
    throw std::invalid_argument(std::string(function_) + ": " + name + " must " + wanted +
                                "; got " + got + ".");
  }

  const char* function_;
  int64_t device_;
};

// The arguments of each function. Array types differ between the CPU's binding and the GPU's.
template <class X, class Weight, class Distance>
Sizes check_forward(const char* function, const X& x, const Weight& weight,
                    const Distance& distance, double p) {
  const Sizes n{int64_t(x.shape(0)), int64_t(weight.shape(0)), int64_t(x.shape(1))};
  Checks(function, x)
      .matrix("x", x)
      .matrix("weight", weight)
      .shape("weight", weight, {n.out_features, n.in_features})
      .shape("distance", distance, {n.batch, n.out_features})
      .at_least("p", p, 1);
  return n;
}

template <class X, class Index>
void check_index(const char* function, const X& x, const Index& index, Sizes n) {
  Checks(function, x)
      .shape("index", index, {n.batch, n.out_features})
      .fits(kFeaturesName, n.in_features);
}

// `saved` is called `name`: the distance, the index or the total.
template <class Grad, class X, class Weight, class Saved, class GradX>
Sizes check_backward(const char* function, const Grad& grad, const X& x, const Weight& weight,
                     const char* name, const Saved& saved, const GradX& grad_x,
                     const GradX& grad_weight) {
  const Sizes n{int64_t(x.shape(0)), int64_t(weight.shape(0)), int64_t(x.shape(1))};
  Checks(function, x)
      .matrix("x", x)
      .matrix("weight", weight)
      .shape("weight", weight, {n.out_features, n.in_features})
      .shape("grad", grad, {n.batch, n.out_features})
      .shape(name, saved, {n.batch, n.out_features})
      .shape("grad_x", grad_x, {n.batch, n.in_features})
      .shape("grad_weight", grad_weight, {n.out_features, n.in_features});
  return n;
}

// At p = ∞ a gradient goes by the index, which `backward` is not given.
template <class X>
void check_finite_p(const char* function, const X& x, double p) {
  Checks(function, x).at_least("p", p, 1).below("p", p, std::numeric_limits<double>::infinity());
}

template <class X>
void check_t(const char* function, const X& x, double t) {
  Checks(function, x).above("t", t, 0);
}

// What a GPU's launch keeps in 32 bits: sizes, or the rows of a matrix alone.
template <class X>
void check_launch(const char* function, const X& x, Sizes n) {
  Checks(function, x).fits(n);
}

template <class X>
void check_rows(const char* function, const X& x, int64_t rows) {
  Checks(function, x).fits("the number of rows", rows);
}

// Of a workspace, whose bytes must be a number of 64 bits: 256 segments of every matrix are below.
inline void check_sizes(const char* function, Sizes n, int64_t bytes_per_element) {
  constexpr double kMostElements = 0x1p50;
  const Checks checks(function);
  checks.fits(n);
  for (const auto& [name, size] : {std::pair{kSamplesName, n.batch},
                                   {kNeuronsName, n.out_features},
                                   {kFeaturesName, n.in_features}})
    checks.at_least(name, double(size), 1);
  checks.below("samples times neurons", double(n.batch) * n.out_features, kMostElements)
      .below("samples times features", double(n.batch) * n.in_features, kMostElements)
      .below("neurons times features", double(n.out_features) * n.in_features, kMostElements);
  if (bytes_per_element != sizeof(float))
    checks.equal("bytes_per_element", bytes_per_element, sizeof(double));
}

template <class X, class Bytes>
void check_workspace(const char* function, const X& x, const Bytes& workspace, int64_t bytes) {
  Checks(function, x).workspace("workspace", workspace, bytes);
}

template <class X, class Flag>
void check_flag(const char* function, const X& x, const Flag& fits) {
  Checks(function, x).shape("fits", fits, {1, 1});
}

template <class X, class Distance>
Sizes check_interval(const char* function, const X& lower, const X& upper, const X& weight,
                     const Distance& distance_lower, const Distance& distance_upper) {
  const Sizes n = check_forward(function, lower, weight, distance_lower, 1);
  Checks(function, lower)
      .shape("upper", upper, {n.batch, n.in_features})
      .shape("distance_upper", distance_upper, {n.batch, n.out_features});
  return n;
}

template <class X, class Distance>
Sizes check_lse_forward(const char* function, const X& x, const X& weight, const Distance& distance,
                        const Distance& total, double t) {
  const Sizes n = check_forward(function, x, weight, distance, 1);
  Checks(function, x).shape("total", total, {n.batch, n.out_features}).above("t", t, 0);
  return n;
}

template <class Rows, class Factors, class Reach>
void check_factors(const char* function, const Rows& rows, const Rows& centre,
                   const Factors& factors, const Reach& reach, double t, double least) {
  const int64_t count = int64_t(rows.shape(0)), length = int64_t(rows.shape(1));
  Checks(function, rows)
      .matrix("rows", rows)
      .shape("centre", centre, {1, length})
      .shape("factors", factors, {count, 2 * length})
      .shape("reach", reach, {count, 1})
      .above("t", t, 0)
      .at_least("least", least, std::numeric_limits<typename Rows::Scalar>::min_exponent);
}

template <class Products, class Factors, class Grad>
void check_combine(const char* function, const Products& products, const Factors& factors,
                   const Grad& grad) {
  const int64_t count = int64_t(grad.shape(0)), length = int64_t(grad.shape(1));
  Checks(function, grad)
      .matrix("grad", grad)
      .shape("products", products, {count, 2 * length})
      .shape("factors", factors, {count, 2 * length});
}

template <class Weight, class Grad>
void check_adamw(const char* function, const Weight& weight, const Grad& grad,
                 const Weight& exp_avg, const Weight& exp_avg_sq, double p, int64_t steps) {
  const int64_t rows = int64_t(weight.shape(0)), length = int64_t(weight.shape(1));
  Checks(function, weight)
      .matrix("weight", weight)
      .shape("grad", grad, {rows, length})
      .shape("exp_avg", exp_avg, {rows, length})
      .shape("exp_avg_sq", exp_avg_sq, {rows, length})
      .at_least("p", p, 1)
      .at_least("steps", double(steps), 1);
}

}  // namespace linfdist
