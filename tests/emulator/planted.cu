// Kernels with a bug each, and the same kernels without it: the emulator has to tell them apart.
#include <cuda_runtime.h>

#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "cuda/device.cuh"

namespace {

using namespace linfdist::cuda;

constexpr int kThreads = 64, kSlices = 4;

// out[i] = in[63 − i] through shared memory; the bug: no barrier between writing and reading.
template <bool kRight>
__global__ void race(const float* in, float* out) {
  __shared__ float all[kThreads];
  all[threadIdx.x] = in[threadIdx.x];
  if constexpr (kRight) __syncthreads();
  out[threadIdx.x] = all[kThreads - 1 - threadIdx.x];
}

// The same within a warp; the bug: no __syncwarp.
template <bool kRight>
__global__ void warp_race(const float* in, float* out) {
  float* all = dynamic_shared<float>();
  all[threadIdx.x] = in[threadIdx.x];
  if constexpr (kRight) __syncwarp();
  out[threadIdx.x] = all[threadIdx.x ^ 31];
}

// The same; the bug: a vote, which orders no memory, in place of __syncwarp. Nothing but
// ThreadSanitizer sees it.
template <bool kRight>
__global__ void voted(const float* in, float* out) {
  float* all = dynamic_shared<float>();
  all[threadIdx.x] = in[threadIdx.x];
  if constexpr (kRight)
    __syncwarp();
  else
    __any_sync(0xffffffffu, 1);
  out[threadIdx.x] = all[threadIdx.x ^ 31];
}

// out[i] = in[i] by an asynchronous copy; the bug: nobody waits for it.
template <bool kRight>
__global__ void unwaited(const float* in, float* out) {
  __shared__ float all[kThreads];
  copy_async<4>(&all[threadIdx.x], &in[threadIdx.x], true);
  commit_copies();
  if constexpr (kRight) wait_copies<0>();
  out[threadIdx.x] = all[threadIdx.x];
}

// The same for the pipeline's first slice; the bug: one group too many may be under way.
template <bool kRight>
__global__ void waited_for_too_few(const float* in, float* out) {
  __shared__ float all[2][kThreads];
  for (int stage = 0; stage < 2; ++stage) {
    copy_async<4>(&all[stage][threadIdx.x], &in[threadIdx.x], true);
    commit_copies();
  }
  wait_copies<kRight ? 1 : 2>();
  out[threadIdx.x] = all[0][threadIdx.x];
}

// out[i] = Σ_s in[63 − i + s] over slices s; the bug: the next copy goes to a buffer that others still read.
template <bool kRight>
__global__ void early_copy(const float* in, float* out) {
  __shared__ float all[kThreads];
  float sum = 0;
  for (int slice = 0; slice < kSlices; ++slice) {
    copy_async<4>(&all[threadIdx.x], &in[(threadIdx.x + slice) % kThreads], true);
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    sum += all[kThreads - 1 - threadIdx.x];
    if constexpr (kRight) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

// out[i] = in[i]; the bug: half of a warp waits where the other half does not come by.
template <bool kRight>
__global__ void deadlock(const float* in, float* out) {
  if (kRight || threadIdx.x % 32 < 16)
    __syncthreads();
  else
    __syncwarp();
  out[threadIdx.x] = in[threadIdx.x];
}

// out[i] = in[i ^ 1]; the bug: the mask leaves out half of the lanes that come.
template <bool kRight>
__global__ void wrong_mask(const float* in, float* out) {
  out[threadIdx.x] = __shfl_xor_sync(kRight ? 0xffffffffu : 0xffffu, in[threadIdx.x], 1);
}

// out[i] = in[i]; the bug: 16 bytes from an address that is a multiple of 4 only.
template <bool kRight>
__global__ void misaligned(const float* in, float* out) {
  __shared__ __align__(16) float all[kThreads + 4];
  if (threadIdx.x % 4 == 0)
    copy_async<16>(&all[threadIdx.x], &in[threadIdx.x + (kRight ? 0 : 1)], true);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  out[threadIdx.x] = all[threadIdx.x];
}

// out[i] = in[i]; the bug: one element past the end is written.
template <bool kRight>
__global__ void past_the_end(const float* in, float* out) {
  out[threadIdx.x + (kRight ? 0 : 1)] = in[threadIdx.x];
}

// out[i] = in[i] + 0; the bug: the 0 is never written.
template <bool kRight>
__global__ void unwritten(const float* in, float* out) {
  __shared__ float all[kThreads];
  if (kRight || threadIdx.x > 0) all[threadIdx.x] = 0;
  __syncthreads();
  out[threadIdx.x] = in[threadIdx.x] + all[0];
}

// out[b] = in[0] for block b; the bug: a block reads what another one may not have written yet.
template <bool kRight>
__global__ void blocks_in_order(const float* in, float* out) {
  if (threadIdx.x == 0) out[blockIdx.x] = kRight || blockIdx.x == 0 ? in[0] : out[blockIdx.x - 1];
}

using Kernel = void (*)(const float*, float*);

struct Planted {
  Kernel right, wrong;
  unsigned blocks = 1;
};

#define PLANTED(name, ...)                            \
  {                                                   \
    #name, { name<true>, name<false>, ##__VA_ARGS__ } \
  }
const std::map<std::string, Planted> kPlanted = {
    PLANTED(race),      PLANTED(warp_race),          PLANTED(voted),
    PLANTED(unwaited),  PLANTED(waited_for_too_few), PLANTED(early_copy),
    PLANTED(deadlock),  PLANTED(wrong_mask),         PLANTED(misaligned),
    PLANTED(unwritten), PLANTED(past_the_end),       PLANTED(blocks_in_order, kThreads)};

}  // namespace

// `in` and `out` have 64 elements. Returns null, or what went wrong.
extern "C" __attribute__((visibility("default"))) const char* run_planted(const char* name,
                                                                          int right,
                                                                          const float* in,
                                                                          float* out) {
  static std::string message;
  try {
    const Planted& planted = kPlanted.at(name);
    launch(right ? planted.right : planted.wrong, planted.blocks, kThreads,
           kThreads * sizeof(float), nullptr, in, out);
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

// planted NAME 0|1: as a program, for a sanitizer.
int main(int, char** arguments) {
  const std::vector<float> in(kThreads);
  std::vector<float> out(kThreads);
  const char* error = run_planted(arguments[1], arguments[2][0] == '1', in.data(), out.data());
  if (error) std::puts(error);
  return error != nullptr;
}
