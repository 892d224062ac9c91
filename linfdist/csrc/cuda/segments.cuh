// Sums over what is too long for one block: a reduction is cut into segments, each writes its partial
// sums to memory of its own, and they are added in their order. No atomics: the same bits every time.
#pragma once

#include <algorithm>

#include "cpu/kernels.h"
#include "cuda/device.cuh"

namespace linfdist::cuda {

// How many segments to cut a reduction of `length` into, of at least `least` each, so that `blocks`
// blocks a segment fill the multiprocessors evenly. A segment's partial sums are written and read as
// often as `passes` of its steps would take.
inline int segments_for(int64_t blocks, int64_t length, int64_t least, double passes) {
  constexpr int kMost = 256;
  const int64_t units = device_attribute(cudaDevAttrMultiProcessorCount);
  const int most = int(std::clamp<int64_t>(length / least, 1, kMost));
  int best = 1;
  double best_share = 0;
  for (int segments = 1; segments <= most; ++segments) {
    const int64_t all = blocks * segments, waves = (all + units - 1) / units;
    const double share =
        double(all) / double(waves * units) - (segments - 1) * passes / double(length);
    if (share > best_share) {
      best_share = share;
      best = segments;
    }
  }
  return best;
}

// done: null, or not 0 where nothing is left to do.
template <class T>
__global__ void __launch_bounds__(256)
    add_segments(const T* partial, T* out, int64_t size, int segments, const int32_t* done) {
  if (done && *done) return;
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= size) return;
  T sum = partial[at];
  for (int segment = 1; segment < segments; ++segment) sum += partial[segment * size + at];
  out[at] = sum;
}

// Where the segments' partial sums go: to `out` itself if there is one segment.
template <class T>
struct Segmented {
  T* out;
  T* partial;
  int64_t size;
  int segments;

  T* target() const { return segments == 1 ? out : partial; }
  void add(void* stream, const int32_t* done = nullptr) const {
    if (segments > 1)
      launch(add_segments<T>, dim3(blocks(size, 256)), dim3(256), 0, stream,
             static_cast<const T*>(partial), out, size, segments, done);
  }
};

// Hands out pieces of a workspace, each on 16 bytes; without one it only counts.
class Workspace {
 public:
  explicit Workspace(void* at) : at_(static_cast<char*>(at)) {}

  template <class T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(at_ + bytes_);
    bytes_ += (count * int64_t(sizeof(T)) + 15) / 16 * 16;
    return piece;
  }
  template <class T>
  Segmented<T> segmented(T* out, int64_t size, int segments) {
    return {out, take<T>(segments > 1 ? size * segments : 0), size, segments};
  }
  void* rest() const { return at_ + bytes_; }
  int64_t bytes() const { return bytes_; }

 private:
  char* at_;
  int64_t bytes_ = 0;
};

}  // namespace linfdist::cuda
