// What the kernels use of a GPU beyond the language, in one place.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace linfdist::cuda {

// Copies 4 or 16 bytes, aligned to their number on both sides, from global to shared memory without
// passing through registers; writes zeros where not `valid`, and reads nothing. Done after
// commit_copies() and wait_copies(), for the copying thread, and for the block after a barrier too.
template <int Bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
  static_assert(Bytes == 4 || Bytes == 16);
#if __CUDA_ARCH__ >= 800
  const unsigned to = unsigned(__cvta_generic_to_shared(shared));
  const int bytes = valid ? Bytes : 0;
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
                 "r"(bytes));
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(global), "r"(bytes));
#else
  if constexpr (Bytes == 16)
    *static_cast<float4*>(shared) =
        valid ? *static_cast<const float4*>(global) : float4{0.f, 0.f, 0.f, 0.f};
  else
    *static_cast<float*>(shared) = valid ? *static_cast<const float*>(global) : 0.f;
#endif
}

// Closes a group of copies.
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `Pending` of this thread's groups are under way.
template <int Pending>
__device__ __forceinline__ void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}

// The special-function unit's logarithm: absolute error 2^-22; −∞ for 0 and for denormals.
__device__ __forceinline__ float log2_fast(float v) {
  float out;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(v));
  return out;
}

// The special-function unit's 2^v: relative error 2^-22; 0 below 2^-126.
__device__ __forceinline__ float exp2_fast(float v) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(v));
  return out;
}

// The larger; NaN if one is. One instruction, which takes |b| for free.
__device__ __forceinline__ float max_nan(float a, float b) {
#if __CUDA_ARCH__ >= 800
  float out;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
  return out;
#else
  return a != a || b != b ? a + b : fmaxf(a, b);
#endif
}

// Both rounded to their upper 16 bits, to nearest or even; `low` in the lower half.
__device__ __forceinline__ uint32_t bfloat16_pair(float low, float high) {
#if __CUDA_ARCH__ >= 800
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
#else
  const auto rounded = [](float v) {
    const uint32_t bits = __float_as_uint(v);
    return v != v ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  };
  return rounded(low) | rounded(high) << 16;
#endif
}

// The launch's dynamic shared memory, aligned for float4.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ float4 dynamic_bytes[];
  return reinterpret_cast<T*>(dynamic_bytes);
}

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("linfdist: ") + what + ": " + cudaGetErrorString(status) +
                             ". For a GPU that the build does not cover, reinstall with pip's -C "
                             "cmake.define.CMAKE_CUDA_ARCHITECTURES=native.");
}

// A property of the current device.
inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "there is no current CUDA device");
  check(cudaDeviceGetAttribute(&value, attribute, device), "a CUDA device could not be asked");
  return value;
}

// Queues a kernel on `stream` and returns at once.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, void* stream,
            A... args) {
  if (shared_bytes > 48 * 1024)  // more has to be asked for
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)),
          "a CUDA kernel needs more shared memory than the GPU has");
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(args...);
  check(cudaGetLastError(), "a CUDA kernel could not be launched");
}

inline unsigned blocks(int64_t n, int64_t each) { return unsigned((n + each - 1) / each); }

}  // namespace linfdist::cuda
