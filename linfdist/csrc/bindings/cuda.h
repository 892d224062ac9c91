// What bindings/cuda.cpp adds to the module.
#pragma once

#include <nanobind/nanobind.h>

namespace linfdist {

// The functions that run on a GPU, and cuda_architectures.
void define_cuda(nanobind::module_&);

}  // namespace linfdist
