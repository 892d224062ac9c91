// Runs a kernel on the CPU as a GPU would: block after block, a block's threads as fibers.
//
// One thread runs until it waits (at __syncthreads, or at an operation of its warp) or ends; then
// the next one runs, in ascending or in descending order. Whatever two threads do to one address
// with no barrier between them therefore happens in another order in each direction, and a race
// shows as a difference of the results. Threads that wait for each other at different places are an
// error that says where.
//
// What would be garbage on a GPU is poison here: shared memory at the start of a block, lanes that
// take no part in an exchange, and the target of an asynchronous copy from the moment it is issued
// until the issuing thread has waited for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace emulator {

constexpr int kWarp = 32;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  uint64_t count() const { return uint64_t(x) * y * z; }
};

struct Position {
  dim3 grid, block, block_index, thread_index;
};
extern Position position;  // of the thread that runs

constexpr size_t kSharedLimit = 163 << 10;  // a block's on sm_80, the smallest that is built for

struct Settings {
  int multiprocessors = 132;  // what the kernels are told; one block runs at a time all the same
  bool reverse_threads = false, reverse_blocks = false;
  unsigned char poison = 0xFF;  // each byte of what was never written; 0xFF… is NaN and −1
  bool mufu_error = false;      // log2_fast and exp2_fast err by up to 2^-22, as MUFU does
};
extern Settings settings;

// `body` is the kernel with its arguments. Throws std::runtime_error for what a GPU would refuse,
// and for what fail() was called for in one of the threads.
void launch(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes,
            const std::function<void()>& body);

// The rest is for the thread that runs.

[[noreturn]] void fail(const std::string& what);  // ends the launch; `what` is one clause

int lane();
void sync_block();

struct Lanes {
  uint64_t value[kWarp];
  unsigned present;  // the lanes that gave a value
};
// Waits for the live lanes of `mask`, all of which must come with this mask and operation.
const Lanes& exchange(unsigned mask, const char* operation, uint64_t value);

void* dynamic_shared();

// cp.async and its groups: `bytes` move when the group that they were committed to is waited for.
void copy_async(void* shared, const void* global, int bytes, bool valid);
void commit_copies();
void wait_copies(int pending);

}  // namespace emulator
