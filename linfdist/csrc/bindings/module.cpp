// The Python module linfdist.ops._native, with its CPU functions; those on a GPU are in
// bindings/cuda.cpp. Pointers and sizes in, nothing of torch.
//
// Every argument is .noconvert(): without it nanobind would silently copy an array of another
// dtype. Every function checks its arguments against each other first (bindings/checks.h).
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <limits>

#include "adamw_step.h"
#include "bindings/checks.h"
#include "cpu/float_mode.h"
#include "cpu/kernels.h"
#if defined(LINFDIST_CUDA)
#include "bindings/cuda.h"
#endif

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using linfdist::AdamW;
using linfdist::CpuKernels;
using linfdist::Sizes;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <class T>
const CpuKernels<T>& kernels() {
  if constexpr (sizeof(T) == 4)
    return linfdist::cpu_isa().f32;
  else
    return linfdist::cpu_isa().f64;
}

template <class T>
void forward(Matrix<const T> x, Matrix<const T> weight, Matrix<T> distance, double p) {
  const Sizes n = linfdist::check_forward("forward", x, weight, distance, p);
  nb::gil_scoped_release release;
  kernels<T>().forward(x.data(), weight.data(), distance.data(), nullptr, n, p);
}

template <class T>
void forward_with_index(Matrix<const T> x, Matrix<const T> weight, Matrix<T> distance,
                        Matrix<int32_t> index) {
  const Sizes n = linfdist::check_forward("forward_with_index", x, weight, distance, kInfinity);
  linfdist::check_index("forward_with_index", x, index, n);
  nb::gil_scoped_release release;
  kernels<T>().forward(x.data(), weight.data(), distance.data(), index.data(), n, kInfinity);
}

template <class T>
void backward(Matrix<const T> grad, Matrix<const T> x, Matrix<const T> weight,
              Matrix<const T> distance, Matrix<T> grad_x, Matrix<T> grad_weight, double p) {
  const Sizes n = linfdist::check_backward("backward", grad, x, weight, "distance", distance,
                                           grad_x, grad_weight);
  linfdist::check_finite_p("backward", x, p);
  nb::gil_scoped_release release;
  kernels<T>().backward(grad.data(), x.data(), weight.data(), distance.data(), nullptr,
                        grad_x.data(), grad_weight.data(), n, p);
}

template <class T>
void backward_with_index(Matrix<const T> grad, Matrix<const T> x, Matrix<const T> weight,
                         Matrix<const int32_t> index, Matrix<T> grad_x, Matrix<T> grad_weight) {
  const Sizes n = linfdist::check_backward("backward_with_index", grad, x, weight, "index", index,
                                           grad_x, grad_weight);
  nb::gil_scoped_release release;
  kernels<T>().backward(grad.data(), x.data(), weight.data(), nullptr, index.data(), grad_x.data(),
                        grad_weight.data(), n, kInfinity);
}

template <class T>
void interval(Matrix<const T> lower, Matrix<const T> upper, Matrix<const T> weight,
              Matrix<T> distance_lower, Matrix<T> distance_upper) {
  const Sizes n =
      linfdist::check_interval("interval", lower, upper, weight, distance_lower, distance_upper);
  nb::gil_scoped_release release;
  kernels<T>().interval(lower.data(), upper.data(), weight.data(), distance_lower.data(),
                        distance_upper.data(), n);
}

template <class T>
void lse_forward(Matrix<const T> x, Matrix<const T> weight, Matrix<T> distance, Matrix<T> total,
                 double t) {
  const Sizes n = linfdist::check_lse_forward("lse_forward", x, weight, distance, total, t);
  nb::gil_scoped_release release;
  kernels<T>().lse_forward(x.data(), weight.data(), distance.data(), total.data(), n, t);
}

template <class T>
void lse_backward(Matrix<const T> grad, Matrix<const T> x, Matrix<const T> weight,
                  Matrix<const T> total, Matrix<T> grad_x, Matrix<T> grad_weight, double t) {
  const Sizes n = linfdist::check_backward("lse_backward", grad, x, weight, "total", total, grad_x,
                                           grad_weight);
  linfdist::check_t("lse_backward", x, t);
  nb::gil_scoped_release release;
  kernels<T>().lse_backward(grad.data(), x.data(), weight.data(), total.data(), grad_x.data(),
                            grad_weight.data(), n, t);
}

template <class T>
void lse_factors(Matrix<const T> rows, Matrix<const T> centre, Matrix<T> factors, Matrix<T> reach,
                 double t, double least) {
  linfdist::check_factors("lse_factors", rows, centre, factors, reach, t, least);
  nb::gil_scoped_release release;
  kernels<T>().lse_factors(rows.data(), centre.data(), factors.data(), reach.data(),
                           int64_t(rows.shape(0)), int64_t(rows.shape(1)), t, least);
}

template <class T>
void lse_combine(Matrix<const T> products, Matrix<const T> factors, Matrix<T> grad) {
  linfdist::check_combine("lse_combine", products, factors, grad);
  nb::gil_scoped_release release;
  kernels<T>().lse_combine(products.data(), factors.data(), grad.data(), int64_t(grad.shape(0)),
                           int64_t(grad.shape(1)));
}

template <class T>
void adamw(Matrix<T> weight, Matrix<const T> grad, Matrix<T> exp_avg, Matrix<T> exp_avg_sq,
           double p, double rate, double lr, double beta1, double beta2, double eps,
           int64_t steps) {
  linfdist::check_adamw("adamw", weight, grad, exp_avg, exp_avg_sq, p, steps);
  const auto step = AdamW<T>::at(p, rate, lr, beta1, beta2, eps, steps);
  nb::gil_scoped_release release;
  kernels<T>().adamw(weight.data(), grad.data(), exp_avg.data(), exp_avg_sq.data(),
                     int64_t(weight.shape(0)), int64_t(weight.shape(1)), step);
}

// Overloads of one name: nanobind picks by dtype and device.
template <class T>
void define(nb::module_& m) {
  const auto x = "x"_a.noconvert(), weight = "weight"_a.noconvert(), grad = "grad"_a.noconvert(),
             distance = "distance"_a.noconvert(), total = "total"_a.noconvert(),
             index = "index"_a.noconvert(), grad_x = "grad_x"_a.noconvert(),
             grad_weight = "grad_weight"_a.noconvert(), lower = "lower"_a.noconvert(),
             upper = "upper"_a.noconvert(), distance_lower = "distance_lower"_a.noconvert(),
             distance_upper = "distance_upper"_a.noconvert(), exp_avg = "exp_avg"_a.noconvert(),
             exp_avg_sq = "exp_avg_sq"_a.noconvert();
  m.def("forward", forward<T>, x, weight, distance, "p"_a);
  m.def("forward_with_index", forward_with_index<T>, x, weight, distance, index);
  m.def("backward", backward<T>, grad, x, weight, distance, grad_x, grad_weight, "p"_a);
  m.def("backward_with_index", backward_with_index<T>, grad, x, weight, index, grad_x, grad_weight);
  m.def("interval", interval<T>, lower, upper, weight, distance_lower, distance_upper);
  m.def("lse_forward", lse_forward<T>, x, weight, distance, total, "t"_a);
  m.def("lse_backward", lse_backward<T>, grad, x, weight, total, grad_x, grad_weight, "t"_a);
  const auto rows = "rows"_a.noconvert(), centre = "centre"_a.noconvert(),
             factors = "factors"_a.noconvert(), reach = "reach"_a.noconvert(),
             products = "products"_a.noconvert();
  m.def("lse_factors", lse_factors<T>, rows, centre, factors, reach, "t"_a, "least"_a);
  m.def("lse_combine", lse_combine<T>, products, factors, grad);
  m.def("adamw", adamw<T>, weight, grad, exp_avg, exp_avg_sq, "p"_a, "rate"_a, "lr"_a, "beta1"_a,
        "beta2"_a, "eps"_a, "steps"_a);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native kernels of linfdist; call them through linfdist.ops.";
  define<float>(m);
  define<double>(m);
#if defined(LINFDIST_CUDA)
  linfdist::define_cuda(m);
#else
  m.attr("cuda_architectures") = "";
#endif
  m.def("share_float_mode", linfdist::share_float_mode,
        "Give every thread of the caller's pool the caller's floating-point mode.");
  m.def("cpu_isa", [] { return linfdist::cpu_isa().name; }, "The instruction set in use.");
}
