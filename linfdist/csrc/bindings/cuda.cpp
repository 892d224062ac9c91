// The functions of linfdist.ops._native on a GPU: overloads of those in bindings/module.cpp, with torch's
// current stream as a last argument. The conventions are the same.
#include "bindings/cuda.h"

#include <nanobind/ndarray.h>

#include <limits>

#include "adamw_step.h"
#include "bindings/checks.h"
#include "cuda/adamw.h"
#include "cuda/kernels.h"
#include "cuda/lse.h"

namespace nb = nanobind;
using namespace nb::literals;

template <>
struct nanobind::detail::dtype_traits<linfdist::cuda::BFloat16> {
  static constexpr dlpack::dtype value{uint8_t(dlpack::dtype_code::Bfloat), 16, 1};
  static constexpr auto name = const_name("bfloat16");
};

namespace {

using linfdist::AdamW;
using linfdist::Sizes;
using linfdist::cuda::BFloat16;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class T>
using CudaMatrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cuda>;

using CudaBytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cuda>;

// `stream` is torch's current stream as an integer; the Python side has set the device.
void* as_stream(uintptr_t stream) { return reinterpret_cast<void*>(stream); }

template <class T>
void cuda_forward(CudaMatrix<const T> x, CudaMatrix<const T> weight, CudaMatrix<T> distance,
                  double p, uintptr_t stream) {
  const Sizes n = linfdist::check_forward("forward", x, weight, distance, p);
  linfdist::check_launch("forward", x, n);
  linfdist::cuda::forward(x.data(), weight.data(), distance.data(), nullptr, n, p,
                          as_stream(stream));
}

template <class T>
void cuda_forward_with_index(CudaMatrix<const T> x, CudaMatrix<const T> weight,
                             CudaMatrix<T> distance, CudaMatrix<int32_t> index, uintptr_t stream) {
  const Sizes n = linfdist::check_forward("forward_with_index", x, weight, distance, kInfinity);
  linfdist::check_index("forward_with_index", x, index, n);
  linfdist::check_launch("forward_with_index", x, n);
  linfdist::cuda::forward(x.data(), weight.data(), distance.data(), index.data(), n, kInfinity,
                          as_stream(stream));
}

template <class T>
void cuda_backward(CudaMatrix<const T> grad, CudaMatrix<const T> x, CudaMatrix<const T> weight,
                   CudaMatrix<const T> distance, CudaMatrix<T> grad_x, CudaMatrix<T> grad_weight,
                   CudaBytes workspace, double p, uintptr_t stream) {
  const Sizes n = linfdist::check_backward("backward", grad, x, weight, "distance", distance,
                                           grad_x, grad_weight);
  linfdist::check_finite_p("backward", x, p);
  linfdist::check_launch("backward", x, n);
  linfdist::check_workspace("backward", x, workspace,
                            linfdist::cuda::backward_workspace(n, p, sizeof(T)));
  linfdist::cuda::backward(grad.data(), x.data(), weight.data(), distance.data(), nullptr,
                           grad_x.data(), grad_weight.data(), workspace.data(), n, p,
                           as_stream(stream));
}

// An index outside of 0 … in_features − 1 adds nothing: the kernel looks at each, and nothing waits.
template <class T>
void cuda_backward_with_index(CudaMatrix<const T> grad, CudaMatrix<const T> x,
                              CudaMatrix<const T> weight, CudaMatrix<const int32_t> index,
                              CudaMatrix<T> grad_x, CudaMatrix<T> grad_weight, CudaBytes workspace,
                              uintptr_t stream) {
  const Sizes n = linfdist::check_backward("backward_with_index", grad, x, weight, "index", index,
                                           grad_x, grad_weight);
  linfdist::check_launch("backward_with_index", x, n);
  linfdist::check_workspace("backward_with_index", x, workspace,
                            linfdist::cuda::backward_workspace(n, kInfinity, sizeof(T)));
  linfdist::cuda::backward(grad.data(), x.data(), weight.data(), nullptr, index.data(),
                           grad_x.data(), grad_weight.data(), workspace.data(), n, kInfinity,
                           as_stream(stream));
}

template <class T>
void cuda_interval(CudaMatrix<const T> lower, CudaMatrix<const T> upper, CudaMatrix<const T> weight,
                   CudaMatrix<T> distance_lower, CudaMatrix<T> distance_upper, uintptr_t stream) {
  const Sizes n =
      linfdist::check_interval("interval", lower, upper, weight, distance_lower, distance_upper);
  linfdist::check_launch("interval", lower, n);
  linfdist::cuda::interval(lower.data(), upper.data(), weight.data(), distance_lower.data(),
                           distance_upper.data(), n, as_stream(stream));
}

template <class T>
void cuda_adamw(CudaMatrix<T> weight, CudaMatrix<const T> grad, CudaMatrix<T> exp_avg,
                CudaMatrix<T> exp_avg_sq, double p, double rate, double lr, double beta1,
                double beta2, double eps, int64_t steps, uintptr_t stream) {
  linfdist::check_adamw("adamw", weight, grad, exp_avg, exp_avg_sq, p, steps);
  const int64_t rows = int64_t(weight.shape(0));
  linfdist::check_rows("adamw", weight, rows);
  linfdist::cuda::adamw(weight.data(), grad.data(), exp_avg.data(), exp_avg_sq.data(), rows,
                        int64_t(weight.shape(1)),
                        AdamW<T>::at(p, rate, lr, beta1, beta2, eps, steps), as_stream(stream));
}

template <class T, class Factor>
void cuda_lse_factors(CudaMatrix<const T> rows, CudaMatrix<const T> centre,
                      CudaMatrix<Factor> factors, CudaMatrix<T> reach, double t, double least,
                      uintptr_t stream) {
  linfdist::check_factors("lse_factors", rows, centre, factors, reach, t, least);
  const int64_t count = int64_t(rows.shape(0));
  linfdist::check_rows("lse_factors", rows, count);
  linfdist::cuda::lse_factors(rows.data(), centre.data(), factors.data(), reach.data(), count,
                              int64_t(rows.shape(1)), t, least, as_stream(stream));
}

template <class T, class Factor>
void cuda_lse_combine(CudaMatrix<const T> products, CudaMatrix<const Factor> factors,
                      CudaMatrix<T> grad, uintptr_t stream) {
  linfdist::check_combine("lse_combine", products, factors, grad);
  const int64_t count = int64_t(grad.shape(0));
  linfdist::check_rows("lse_combine", grad, count);
  linfdist::cuda::lse_combine(products.data(), factors.data(), grad.data(), count,
                              int64_t(grad.shape(1)), as_stream(stream));
}

template <class T>
void cuda_lse_forward(CudaMatrix<const T> x, CudaMatrix<const T> weight, CudaMatrix<T> distance,
                      CudaMatrix<T> total, CudaMatrix<const int32_t> fits, double t,
                      uintptr_t stream) {
  const Sizes n = linfdist::check_lse_forward("lse_forward", x, weight, distance, total, t);
  linfdist::check_launch("lse_forward", x, n);
  linfdist::check_flag("lse_forward", x, fits);
  linfdist::cuda::lse_forward(x.data(), weight.data(), distance.data(), total.data(), fits.data(),
                              n, t, as_stream(stream));
}

template <class T>
void cuda_lse_backward(CudaMatrix<const T> grad, CudaMatrix<const T> x, CudaMatrix<const T> weight,
                       CudaMatrix<const T> total, CudaMatrix<T> grad_x, CudaMatrix<T> grad_weight,
                       CudaBytes workspace, CudaMatrix<const int32_t> fits, double t,
                       uintptr_t stream) {
  const Sizes n = linfdist::check_backward("lse_backward", grad, x, weight, "total", total, grad_x,
                                           grad_weight);
  linfdist::check_t("lse_backward", x, t);
  linfdist::check_launch("lse_backward", x, n);
  linfdist::check_flag("lse_backward", x, fits);
  linfdist::check_workspace("lse_backward", x, workspace,
                            linfdist::cuda::lse_workspace(n, sizeof(T)));
  linfdist::cuda::lse_backward(grad.data(), x.data(), weight.data(), total.data(), grad_x.data(),
                               grad_weight.data(), workspace.data(), fits.data(), n, t,
                               as_stream(stream));
}

template <class T, class Factor>
void define_factors(nb::module_& m) {
  const auto factors = "factors"_a.noconvert();
  m.def("lse_factors", cuda_lse_factors<T, Factor>, "rows"_a.noconvert(), "centre"_a.noconvert(),
        factors, "reach"_a.noconvert(), "t"_a, "least"_a, "stream"_a);
  m.def("lse_combine", cuda_lse_combine<T, Factor>, "products"_a.noconvert(), factors,
        "grad"_a.noconvert(), "stream"_a);
}

template <class T>
void define(nb::module_& m) {
  const auto x = "x"_a.noconvert(), weight = "weight"_a.noconvert(), grad = "grad"_a.noconvert(),
             distance = "distance"_a.noconvert(), total = "total"_a.noconvert(),
             index = "index"_a.noconvert(), grad_x = "grad_x"_a.noconvert(),
             grad_weight = "grad_weight"_a.noconvert(), lower = "lower"_a.noconvert(),
             upper = "upper"_a.noconvert(), distance_lower = "distance_lower"_a.noconvert(),
             distance_upper = "distance_upper"_a.noconvert(), exp_avg = "exp_avg"_a.noconvert(),
             exp_avg_sq = "exp_avg_sq"_a.noconvert(), workspace = "workspace"_a.noconvert(),
             fits = "fits"_a.noconvert();
  m.def("forward", cuda_forward<T>, x, weight, distance, "p"_a, "stream"_a);
  m.def("forward_with_index", cuda_forward_with_index<T>, x, weight, distance, index, "stream"_a);
  m.def("backward", cuda_backward<T>, grad, x, weight, distance, grad_x, grad_weight, workspace,
        "p"_a, "stream"_a);
  m.def("backward_with_index", cuda_backward_with_index<T>, grad, x, weight, index, grad_x,
        grad_weight, workspace, "stream"_a);
  m.def("interval", cuda_interval<T>, lower, upper, weight, distance_lower, distance_upper,
        "stream"_a);
  m.def("adamw", cuda_adamw<T>, weight, grad, exp_avg, exp_avg_sq, "p"_a, "rate"_a, "lr"_a,
        "beta1"_a, "beta2"_a, "eps"_a, "steps"_a, "stream"_a);
  m.def("lse_forward", cuda_lse_forward<T>, x, weight, distance, total, fits, "t"_a, "stream"_a);
  m.def("lse_backward", cuda_lse_backward<T>, grad, x, weight, total, grad_x, grad_weight,
        workspace, fits, "t"_a, "stream"_a);
  define_factors<T, T>(m);
}

}  // namespace

void linfdist::define_cuda(nb::module_& m) {
  define<float>(m);
  define<double>(m);
  m.attr("cuda_architectures") = LINFDIST_CUDA;
  m.def(
      "backward_workspace",
      [](int64_t batch, int64_t out_features, int64_t in_features, double p, int64_t element) {
        const Sizes n{batch, out_features, in_features};
        linfdist::check_sizes("backward_workspace", n, element);
        return linfdist::cuda::backward_workspace(n, p, element);
      },
      "batch"_a, "out_features"_a, "in_features"_a, "p"_a, "bytes_per_element"_a,
      "Bytes of device memory that backward needs beside its results.");
  m.def(
      "lse_workspace",
      [](int64_t batch, int64_t out_features, int64_t in_features, int64_t element) {
        const Sizes n{batch, out_features, in_features};
        linfdist::check_sizes("lse_workspace", n, element);
        return linfdist::cuda::lse_workspace(n, element);
      },
      "batch"_a, "out_features"_a, "in_features"_a, "bytes_per_element"_a,
      "Bytes of device memory that lse_backward needs beside its results.");
  define_factors<float, BFloat16>(m);
}
