// CUDA's language for a C++ compiler, as far as the kernels use it: they include <cuda_runtime.h>
// and find this file first. block.h says how a block's threads run.
//
// __shared__ is static thread_local: every shared array of every kernel then lies in this module's
// one TLS segment, which block.cpp finds and poisons before each block. One OS thread runs it all.
#pragma once

#include <math.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "block.h"

#define __host__
#define __device__
#define __global__
#define __noinline__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __shared__ static thread_local
#define __align__(n) __attribute__((aligned(n)))

using emulator::dim3;

// Set by the scheduler whenever it goes to another thread.
inline dim3 &gridDim = emulator::position.grid, &blockDim = emulator::position.block,
            &blockIdx = emulator::position.block_index,
            &threadIdx = emulator::position.thread_index;
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
constexpr int warpSize = emulator::kWarp;

struct __align__(8) float2 {
  float x, y;
};
struct __align__(16) float4 {
  float x, y, z, w;
};
struct __align__(16) double2 {
  double x, y;
};
struct __align__(8) int2 {
  int x, y;
};
struct __align__(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

inline void __syncthreads() { emulator::sync_block(); }
inline void __syncwarp(unsigned mask = ~0u) { emulator::exchange(mask, "__syncwarp", 0); }

namespace emulator {

template <class T>
uint64_t to_bits(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// What every shuffle is: all lanes of `mask` give a value, each reads one lane's. A source outside
// the lane's own segment of `width` lanes means the lane itself, as on a GPU.
template <class T>
T shuffle(unsigned mask, const char* name, T value, int source, int width) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  const int begin = lane() & ~(width - 1);
  if (source < begin || source >= begin + width) source = lane();
  return from_bits<T>(exchange(mask, name, to_bits(value)).value[source]);
}

}  // namespace emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int begin = emulator::lane() & ~(width - 1);
  return emulator::shuffle(mask, "__shfl_sync", value, begin + (source & (width - 1)), width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  return emulator::shuffle(mask, "__shfl_xor_sync", value, emulator::lane() ^ lanes, width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return emulator::shuffle(mask, "__shfl_down_sync", value, emulator::lane() + int(by), width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return emulator::shuffle(mask, "__shfl_up_sync", value, emulator::lane() - int(by), width);
}

// The lanes of `mask` whose value has the same bits as the lane's own.
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  const uint64_t own = emulator::to_bits(value);
  const emulator::Lanes& all = emulator::exchange(mask, "__match_any_sync", own);
  unsigned same = 0;
  for (int i = 0; i < emulator::kWarp; ++i) same |= unsigned(all.value[i] == own) << i;
  return same & all.present;
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const emulator::Lanes& all = emulator::exchange(mask, "__ballot_sync", predicate != 0);
  unsigned votes = 0;
  for (int i = 0; i < emulator::kWarp; ++i) votes |= unsigned(all.value[i] != 0) << i;
  return votes & all.present;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

inline int __popc(unsigned v) { return std::popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return std::countl_zero(unsigned(v)); }
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }
inline float __int_as_float(int v) { return std::bit_cast<float>(v); }
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
template <class T>
T __ldg(const T* at) {
  return *at;
}
using std::max;
using std::min;
