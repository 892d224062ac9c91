// The Python module linfdist.ops._native: pointers and sizes in, nothing of torch.
//
// Every argument is .noconvert(): without it nanobind would silently copy an array of another dtype.
// The Python side has checked shapes; sizes here come from the arrays themselves.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <limits>

#include "adamw.h"
#include "cpu_kernels.h"
#if defined(LINFDIST_CUDA)
#include "cuda_adamw.h"
#include "cuda_kernels.h"
#include "cuda_lse.h"
#endif

namespace nb = nanobind;
using namespace nb::literals;

#if defined(LINFDIST_CUDA)
template <>
struct nanobind::detail::dtype_traits<linfdist::cuda::BFloat16> {
  static constexpr dlpack::dtype value{uint8_t(dlpack::dtype_code::Bfloat), 16, 1};
  static constexpr auto name = const_name("bfloat16");
};
#endif

namespace {

using linfdist::AdamW;
using linfdist::CpuKernels;
using linfdist::Sizes;

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
  const Sizes n{int64_t(x.shape(0)), int64_t(weight.shape(0)), int64_t(x.shape(1))};
  nb::gil_scoped_release release;
  kernels<T>().forward(x.data(), weight.data(), distance.data(), nullptr, n, p);
}

template <class T>
void forward_with_index(Matrix<const T> x, Matrix<const T> weight, Matrix<T> distance,
                        Matrix<int32_t> index) {
  const Sizes n{int64_t(x.shape(0)), int64_t(weight.shape(0)), int64_t(x.shape(1))};
  nb::gil_scoped_release release;
  kernels<T>().forward(x.data(), weight.data(), distance.data(), index.data(), n,
                       std::numeric_limits<double>::infinity());
}

template <class T>
void backward(Matrix<const T> grad, Matrix<const T> x, Matrix<const T> weight,
              Matrix<const T> distance, Matrix<T> grad_x, Matrix<T> grad_weight, double p) {
  const Sizes n{int64_t(x.shape(0)), int64_t(weight.shape(0)), int64_t(x.shape(1))};
  nb::gil_scoped_release release;
  kernels<T>().backward(grad.data(), x.data(), weight.data(), distance.data(), nullptr,
                        grad_x.data(), grad_weight.data(), n, p);
}

template <class T>
void backward_with_index(Matrix<const T> grad, Matrix<const T> x, Matrix<const T> weight,
                         Matrix<const int32_t> index, Matrix<T> grad_x, Matrix<T> grad_weight) {
  const Sizes n{int64_t(x.shape(0)), int64_t(weight.shape(0)), int64_t(x.shape(1))};
  nb::gil_scoped_release release;
  kernels<T>().backward(grad.data(), x.data(), weight.data(), nullptr, index.data(), grad_x.data(),
                        grad_weight.data(), n, std::numeric_limits<double>::infinity());
}

template <class T>
void interval(Matrix<const T> lower, Matrix<const T> upper, Matrix<const T> weight,
              Matrix<T> distance_lower, Matrix<T> distance_upper) {
  const Sizes n{int64_t(lower.shape(0)), int64_t(weight.shape(0)), int64_t(lower.shape(1))};
  nb::gil_scoped_release release;
  kernels<T>().interval(lower.data(), upper.data(), weight.data(), distance_lower.data(),
                        distance_upper.data(), n);
}

template <class T>
void lse_forward(Matrix<const T> x, Matrix<const T> weight, Matrix<T> distance, Matrix<T> total,
                 double t) {
  const Sizes n{int64_t(x.shape(0)), int64_t(weight.shape(0)), int64_t(x.shape(1))};
  nb::gil_scoped_release release;
  kernels<T>().lse_forward(x.data(), weight.data(), distance.data(), total.data(), n, t);
}

template <class T>
void lse_backward(Matrix<const T> grad, Matrix<const T> x, Matrix<const T> weight,
                  Matrix<const T> total, Matrix<T> grad_x, Matrix<T> grad_weight, double t) {
  const Sizes n{int64_t(x.shape(0)), int64_t(weight.shape(0)), int64_t(x.shape(1))};
  nb::gil_scoped_release release;
  kernels<T>().lse_backward(grad.data(), x.data(), weight.data(), total.data(), grad_x.data(),
                            grad_weight.data(), n, t);
}

template <class T>
void lse_factors(Matrix<const T> rows, Matrix<const T> centre, Matrix<T> factors, Matrix<T> reach,
                 double t, double least) {
  nb::gil_scoped_release release;
  kernels<T>().lse_factors(rows.data(), centre.data(), factors.data(), reach.data(),
                           int64_t(rows.shape(0)), int64_t(rows.shape(1)), t, least);
}

template <class T>
void lse_combine(Matrix<const T> products, Matrix<const T> factors, Matrix<T> grad) {
  nb::gil_scoped_release release;
  kernels<T>().lse_combine(products.data(), factors.data(), grad.data(), int64_t(grad.shape(0)),
                           int64_t(grad.shape(1)));
}

template <class T>
void adamw(Matrix<T> weight, Matrix<const T> grad, Matrix<T> exp_avg, Matrix<T> exp_avg_sq,
           double p, double rate, double lr, double beta1, double beta2, double eps,
           int64_t steps) {
  const auto step = AdamW<T>::at(p, rate, lr, beta1, beta2, eps, steps);
  nb::gil_scoped_release release;
  kernels<T>().adamw(weight.data(), grad.data(), exp_avg.data(), exp_avg_sq.data(),
                     int64_t(weight.shape(0)), int64_t(weight.shape(1)), step);
}

#if defined(LINFDIST_CUDA)

template <class T>
using CudaMatrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cuda>;

using CudaBytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cuda>;

template <class T>
Sizes sizes(const CudaMatrix<const T>& x, const CudaMatrix<const T>& weight) {
  return {int64_t(x.shape(0)), int64_t(weight.shape(0)), int64_t(x.shape(1))};
}

// `stream` is torch's current stream as an integer; the Python side has set the device.
void* as_stream(uintptr_t stream) { return reinterpret_cast<void*>(stream); }

template <class T>
void cuda_forward(CudaMatrix<const T> x, CudaMatrix<const T> weight, CudaMatrix<T> distance,
                  double p, uintptr_t stream) {
  linfdist::cuda::forward(x.data(), weight.data(), distance.data(), nullptr, sizes<T>(x, weight), p,
                          as_stream(stream));
}

template <class T>
void cuda_forward_with_index(CudaMatrix<const T> x, CudaMatrix<const T> weight,
                             CudaMatrix<T> distance, CudaMatrix<int32_t> index, uintptr_t stream) {
  linfdist::cuda::forward(x.data(), weight.data(), distance.data(), index.data(),
                          sizes<T>(x, weight), std::numeric_limits<double>::infinity(),
                          as_stream(stream));
}

template <class T>
void cuda_backward(CudaMatrix<const T> grad, CudaMatrix<const T> x, CudaMatrix<const T> weight,
                   CudaMatrix<const T> distance, CudaMatrix<T> grad_x, CudaMatrix<T> grad_weight,
                   CudaBytes workspace, double p, uintptr_t stream) {
  linfdist::cuda::backward(grad.data(), x.data(), weight.data(), distance.data(), nullptr,
                           grad_x.data(), grad_weight.data(), workspace.data(), sizes<T>(x, weight),
                           p, as_stream(stream));
}

template <class T>
void cuda_backward_with_index(CudaMatrix<const T> grad, CudaMatrix<const T> x,
                              CudaMatrix<const T> weight, CudaMatrix<const int32_t> index,
                              CudaMatrix<T> grad_x, CudaMatrix<T> grad_weight, CudaBytes workspace,
                              uintptr_t stream) {
  linfdist::cuda::backward(grad.data(), x.data(), weight.data(), nullptr, index.data(),
                           grad_x.data(), grad_weight.data(), workspace.data(), sizes<T>(x, weight),
                           std::numeric_limits<double>::infinity(), as_stream(stream));
}

template <class T>
void cuda_interval(CudaMatrix<const T> lower, CudaMatrix<const T> upper, CudaMatrix<const T> weight,
                   CudaMatrix<T> distance_lower, CudaMatrix<T> distance_upper, uintptr_t stream) {
  linfdist::cuda::interval(lower.data(), upper.data(), weight.data(), distance_lower.data(),
                           distance_upper.data(), sizes<T>(lower, weight), as_stream(stream));
}

template <class T>
void cuda_adamw(CudaMatrix<T> weight, CudaMatrix<const T> grad, CudaMatrix<T> exp_avg,
                CudaMatrix<T> exp_avg_sq, double p, double rate, double lr, double beta1,
                double beta2, double eps, int64_t steps, uintptr_t stream) {
  linfdist::cuda::adamw(weight.data(), grad.data(), exp_avg.data(), exp_avg_sq.data(),
                        int64_t(weight.shape(0)), int64_t(weight.shape(1)),
                        AdamW<T>::at(p, rate, lr, beta1, beta2, eps, steps),
                        reinterpret_cast<void*>(stream));
}

template <class T, class Factor>
void cuda_lse_factors(CudaMatrix<const T> rows, CudaMatrix<const T> centre,
                      CudaMatrix<Factor> factors, CudaMatrix<T> reach, double t, double least,
                      uintptr_t stream) {
  linfdist::cuda::lse_factors(rows.data(), centre.data(), factors.data(), reach.data(),
                              int64_t(rows.shape(0)), int64_t(rows.shape(1)), t, least,
                              as_stream(stream));
}

template <class T, class Factor>
void cuda_lse_combine(CudaMatrix<const T> products, CudaMatrix<const Factor> factors,
                      CudaMatrix<T> grad, uintptr_t stream) {
  linfdist::cuda::lse_combine(products.data(), factors.data(), grad.data(), int64_t(grad.shape(0)),
                              int64_t(grad.shape(1)), as_stream(stream));
}

template <class T>
void cuda_lse_forward(CudaMatrix<const T> x, CudaMatrix<const T> weight, CudaMatrix<T> distance,
                      CudaMatrix<T> total, CudaMatrix<const int32_t> fits, double t,
                      uintptr_t stream) {
  linfdist::cuda::lse_forward(x.data(), weight.data(), distance.data(), total.data(), fits.data(),
                              sizes<T>(x, weight), t, as_stream(stream));
}

template <class T>
void cuda_lse_backward(CudaMatrix<const T> grad, CudaMatrix<const T> x, CudaMatrix<const T> weight,
                       CudaMatrix<const T> total, CudaMatrix<T> grad_x, CudaMatrix<T> grad_weight,
                       CudaBytes workspace, CudaMatrix<const int32_t> fits, double t,
                       uintptr_t stream) {
  linfdist::cuda::lse_backward(grad.data(), x.data(), weight.data(), total.data(), grad_x.data(),
                               grad_weight.data(), workspace.data(), fits.data(),
                               sizes<T>(x, weight), t, as_stream(stream));
}

template <class T, class Factor>
void define_cuda_factors(nb::module_& m) {
  const auto factors = "factors"_a.noconvert();
  m.def("lse_factors", cuda_lse_factors<T, Factor>, "rows"_a.noconvert(), "centre"_a.noconvert(),
        factors, "reach"_a.noconvert(), "t"_a, "least"_a, "stream"_a);
  m.def("lse_combine", cuda_lse_combine<T, Factor>, "products"_a.noconvert(), factors,
        "grad"_a.noconvert(), "stream"_a);
}

#endif

// Overloads of one name: nanobind picks by dtype and device.
template <class T>
void define(nb::module_& m) {
  const auto x = "x"_a.noconvert(), weight = "weight"_a.noconvert(), grad = "grad"_a.noconvert(),
             distance = "distance"_a.noconvert(), total = "total"_a.noconvert(), index = "index"_a.noconvert(),
             grad_x = "grad_x"_a.noconvert(), grad_weight = "grad_weight"_a.noconvert(),
             lower = "lower"_a.noconvert(), upper = "upper"_a.noconvert(),
             distance_lower = "distance_lower"_a.noconvert(),
             distance_upper = "distance_upper"_a.noconvert(),
             exp_avg = "exp_avg"_a.noconvert(), exp_avg_sq = "exp_avg_sq"_a.noconvert();
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
#if defined(LINFDIST_CUDA)
  m.def("forward", cuda_forward<T>, x, weight, distance, "p"_a, "stream"_a);
  m.def("forward_with_index", cuda_forward_with_index<T>, x, weight, distance, index, "stream"_a);
  const auto workspace = "workspace"_a.noconvert();
  m.def("backward", cuda_backward<T>, grad, x, weight, distance, grad_x, grad_weight, workspace,
        "p"_a, "stream"_a);
  m.def("backward_with_index", cuda_backward_with_index<T>, grad, x, weight, index, grad_x,
        grad_weight, workspace, "stream"_a);
  m.def("interval", cuda_interval<T>, lower, upper, weight, distance_lower, distance_upper,
        "stream"_a);
  m.def("adamw", cuda_adamw<T>, weight, grad, exp_avg, exp_avg_sq, "p"_a, "rate"_a, "lr"_a,
        "beta1"_a, "beta2"_a, "eps"_a, "steps"_a, "stream"_a);
  const auto fits = "fits"_a.noconvert();
  m.def("lse_forward", cuda_lse_forward<T>, x, weight, distance, total, fits, "t"_a, "stream"_a);
  m.def("lse_backward", cuda_lse_backward<T>, grad, x, weight, total, grad_x, grad_weight, workspace,
        fits, "t"_a, "stream"_a);
  define_cuda_factors<T, T>(m);
#endif
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native kernels of linfdist; call them through linfdist.ops.";
  define<float>(m);
  define<double>(m);
#if defined(LINFDIST_CUDA)
  m.attr("cuda_architectures") = LINFDIST_CUDA;
  m.def(
      "backward_workspace",
      [](int64_t batch, int64_t out_features, int64_t in_features, double p, int64_t element) {
        return linfdist::cuda::backward_workspace({batch, out_features, in_features}, p, element);
      },
      "batch"_a, "out_features"_a, "in_features"_a, "p"_a, "bytes_per_element"_a,
      "Bytes of device memory that backward needs beside its results.");
  m.def(
      "lse_workspace",
      [](int64_t batch, int64_t out_features, int64_t in_features, int64_t element) {
        return linfdist::cuda::lse_workspace({batch, out_features, in_features}, element);
      },
      "batch"_a, "out_features"_a, "in_features"_a, "bytes_per_element"_a,
      "Bytes of device memory that lse_backward needs beside its results.");
  define_cuda_factors<float, linfdist::cuda::BFloat16>(m);
#else
  m.attr("cuda_architectures") = "";
#endif
  m.def("cpu_isa", [] { return linfdist::cpu_isa().name; }, "The instruction set in use.");
}
