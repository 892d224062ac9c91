// The Python module linfdist.ops._native: pointers and sizes in, nothing of torch.
//
// Every argument is .noconvert(): without it nanobind would silently copy an array of another dtype.
// The Python side has checked shapes; sizes here come from the arrays themselves.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <limits>

#include "cpu_kernels.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

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
void define(nb::module_& m) {
  m.def("forward", forward<T>, "x"_a.noconvert(), "weight"_a.noconvert(), "distance"_a.noconvert(),
        "p"_a);
  m.def("forward_with_index", forward_with_index<T>, "x"_a.noconvert(), "weight"_a.noconvert(),
        "distance"_a.noconvert(), "index"_a.noconvert());
  m.def("backward", backward<T>, "grad"_a.noconvert(), "x"_a.noconvert(), "weight"_a.noconvert(),
        "distance"_a.noconvert(), "grad_x"_a.noconvert(), "grad_weight"_a.noconvert(), "p"_a);
  m.def("backward_with_index", backward_with_index<T>, "grad"_a.noconvert(), "x"_a.noconvert(),
        "weight"_a.noconvert(), "index"_a.noconvert(), "grad_x"_a.noconvert(),
        "grad_weight"_a.noconvert());
  m.def("interval", interval<T>, "lower"_a.noconvert(), "upper"_a.noconvert(),
        "weight"_a.noconvert(), "distance_lower"_a.noconvert(), "distance_upper"_a.noconvert());
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native kernels of linfdist; call them through linfdist.ops.";
  define<float>(m);
  define<double>(m);
  m.def("cpu_isa", [] { return linfdist::cpu_isa().name; }, "The instruction set in use.");
}
