// Stands in for linfdist/csrc/cuda/device.cuh: what the kernels use of a GPU beyond CUDA's language.
#pragma once

#include <cuda_runtime.h>

#include <cfloat>

namespace linfdist::cuda {

template <int Bytes>
void copy_async(void* shared, const void* global, bool valid) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  emulator::copy_async(shared, global, Bytes, valid);
}
inline void commit_copies() { emulator::commit_copies(); }
template <int Pending>
void wait_copies() {
  emulator::wait_copies(Pending);
}

inline float flush(float v) { return fabsf(v) < FLT_MIN ? copysignf(0.0f, v) : v; }

// An error of at most 2^-22 that depends on the argument's bits alone.
inline float mufu_error(float v) {
  const uint32_t hash = __float_as_uint(v) * 2654435761u >> 8;
  return emulator::settings.mufu_error ? ldexpf(float(hash) / float(1 << 23) - 1.0f, -22) : 0.0f;
}

// lg2.approx.ftz and ex2.approx.ftz: about as accurate as log2f and exp2f; subnormals are 0. Exact are
// the logarithm of 1 and 2^0.
inline float log2_fast(float v) {
  const float log = log2f(flush(v));
  return isfinite(log) && log != 0 ? log + mufu_error(v) : log;
}
inline float exp2_fast(float v) {
  const float power = exp2f(flush(v));
  return isfinite(power) && flush(v) != 0 ? flush(power * (1.0f + mufu_error(v))) : power;
}

inline float max_nan(float a, float b) {
  if (isnan(a) || isnan(b)) return NAN;
  return a > b || (a == b && !signbit(a)) ? a : b;  // +0 is larger than −0
}

inline uint32_t bfloat16_pair(float low, float high) {
  const auto rounded = [](float v) {
    const uint32_t bits = __float_as_uint(v);
    return isnan(v) ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  };
  return rounded(low) | rounded(high) << 16;
}

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(emulator::dynamic_shared());
}

inline int device_attribute(cudaDeviceAttr attribute) {
  return attribute == cudaDevAttrMultiProcessorCount ? emulator::settings.multiprocessors
                                                     : int(emulator::kSharedLimit);
}

inline unsigned blocks(int64_t n, int64_t each) { return unsigned((n + each - 1) / each); }

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, void*, A... args) {
  emulator::launch(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
                   [&] { kernel(args...); });
}

}  // namespace linfdist::cuda
