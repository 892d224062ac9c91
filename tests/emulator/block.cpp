// The scheduler of block.h. Built without sanitizers, whose fiber interface it calls instead.
#include "block.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "fiber.h"
#include "memory.h"

namespace emulator {

Position position;
Settings settings;

namespace {

struct Copy {
  void* shared;
  const void* global;  // null: zeros
  int bytes, group;
};

enum class State { kReady, kAtBarrier, kInWarp, kEnded };

struct Thread {
  Fiber fiber;
  dim3 index;
  State state;
  unsigned mask;          // kInWarp: who is waited for,
  const char* operation;  // and for what
  uint64_t value;
  Lanes received;
  std::deque<Copy> copies;
  int groups;  // committed so far
};

// The block that runs.
std::vector<Thread> all_threads;  // of the largest block so far
std::span<Thread> threads;
size_t running;
Fiber launcher;
const std::function<void()>* kernel_body;
Shared fixed, dynamic;
std::string failure;

size_t warp_begin() { return running / kWarp * kWarp; }
size_t warp_end() { return std::min(warp_begin() + kWarp, threads.size()); }

void enter(size_t thread) {
  running = thread;
  position.thread_index = threads[thread].index;
}

// Leaves the thread that runs for the first ready one from `from` on, in the direction of the run;
// for the launcher if there is none.
void run_next(size_t from) {
  Fiber& left = threads[running].fiber;
  const size_t n = threads.size();
  for (size_t i = 0; i < n; ++i) {
    const size_t next = settings.reverse_threads ? (from + n - i) % n : (from + i) % n;
    if (threads[next].state != State::kReady) continue;
    if (next == running) return;
    enter(next);
    return left.leave_for(threads[next].fiber);
  }
  left.leave_for(launcher);
}

// The first of the threads [begin, end) in the direction of the run.
size_t first_of(size_t begin, size_t end) { return settings.reverse_threads ? end - 1 : begin; }

// Lets the members go on. A barrier orders what its threads did before it with what each does after
// it: all `state`s are released on arrival, and the last to arrive passes them on through each one's
// `received`. To a shuffle, a vote or a match CUDA gives no such meaning.
template <class Member>
void pass_on(size_t begin, size_t end, bool orders, const Member& member) {
  for (size_t i = begin; i < end; ++i)
    if (orders && member(i)) Fiber::acquire(&threads[i].state);
  for (size_t i = begin; i < end; ++i) {
    if (!member(i)) continue;
    if (orders) Fiber::release(&threads[i].received);
    threads[i].state = State::kReady;
  }
}

bool orders_memory(const char* operation) { return std::strcmp(operation, "__syncwarp") == 0; }

// Whether `ready` holds for [begin, end). Whoever comes last in the direction of the run is asked
// first: most calls end there.
template <class Ready>
bool all_of(size_t begin, size_t end, const Ready& ready) {
  for (size_t i = 0; i < end - begin; ++i)
    if (!ready(settings.reverse_threads ? begin + i : end - 1 - i)) return false;
  return true;
}

// Lets all threads of the block go on if every live one of them waits at __syncthreads.
void open_barrier() {
  const auto waits = [](size_t i) { return threads[i].state == State::kAtBarrier; };
  const auto ready = [&](size_t i) { return waits(i) || threads[i].state == State::kEnded; };
  if (all_of(0, threads.size(), ready)) pass_on(0, threads.size(), true, waits);
}

// The same for an operation of the running thread's warp by the lanes of `mask`.
void open_exchange(unsigned mask, const char* operation) {
  const size_t begin = warp_begin(), end = warp_end();
  const auto member = [&](size_t i) {
    return (mask >> (i - begin) & 1) && threads[i].state != State::kEnded;
  };
  const auto ready = [&](size_t i) {
    const Thread& t = threads[i];
    return !member(i) || (t.state == State::kInWarp && t.mask == mask && t.operation == operation);
  };
  if (!all_of(begin, end, ready)) return;
  Lanes lanes;
  std::memset(lanes.value, settings.poison, sizeof lanes.value);
  lanes.present = 0;
  for (size_t i = begin; i < end; ++i)
    if (member(i)) {
      lanes.value[i - begin] = threads[i].value;
      lanes.present |= 1u << (i - begin);
    }
  for (size_t i = begin; i < end; ++i)
    if (member(i)) threads[i].received = lanes;
  pass_on(begin, end, orders_memory(operation), member);
}

void thread_main() {
  threads[running].fiber.arrived();
  Fiber::acquire(&position);
  (*kernel_body)();
  threads[running].state = State::kEnded;
  Fiber::release(&launcher);
  // Whoever waits for the live threads no longer waits for this one.
  open_barrier();
  for (size_t i = warp_begin(); i < warp_end(); ++i)
    if (threads[i].state == State::kInWarp) open_exchange(threads[i].mask, threads[i].operation);
  run_next(running);
}

void wait_complaint() {
  size_t at_barrier = 0, ended = 0;
  std::string in_warp;
  for (size_t i = 0; i < threads.size(); ++i) {
    at_barrier += threads[i].state == State::kAtBarrier;
    ended += threads[i].state == State::kEnded;
    if (threads[i].state == State::kInWarp && in_warp.empty())
      in_warp = std::string(", thread ") + std::to_string(i) + " at " + threads[i].operation +
                " of mask " + std::to_string(threads[i].mask);
  }
  failure = "threads wait for each other: " + std::to_string(at_barrier) + " of " +
            std::to_string(threads.size()) + " at __syncthreads" + in_warp + ", " +
            std::to_string(ended) + " ended";
}

// "kernel at +0x1234, block (0, 1, 0): "; the offset is that of the symbol in this module.
std::string describe(const void* kernel) {
  Dl_info module;
  dladdr(kernel, &module);
  std::ostringstream text;
  text << "kernel at +0x" << std::hex
       << static_cast<const char*>(kernel) - static_cast<const char*>(module.dli_fbase) << std::dec
       << ", block (" << position.block_index.x << ", " << position.block_index.y << ", "
       << position.block_index.z << "): ";
  return text.str();
}

void run_block(const Stacks& stacks) {
  const dim3 block = position.block;
  std::memset(fixed.begin, settings.poison, fixed.size);
  std::memset(dynamic.begin, settings.poison, dynamic.size);
  Fiber::release(&position);
  if (all_threads.size() < block.count()) all_threads.resize(block.count());
  threads = std::span(all_threads).first(block.count());
  for (size_t i = 0; i < threads.size(); ++i) {
    Thread& t = threads[i];
    t.index = dim3(unsigned(i % block.x), unsigned(i / block.x % block.y),
                   unsigned(i / block.x / block.y));
    t.state = State::kReady;
    t.copies.clear();
    t.groups = 0;
    t.fiber.create(stacks.of(i), kStack, thread_main);
  }
  enter(first_of(0, threads.size()));
  launcher.leave_for(threads[running].fiber);
  Fiber::acquire(&launcher);
  const auto live = [](const Thread& t) { return t.state != State::kEnded; };
  if (failure.empty() && std::any_of(threads.begin(), threads.end(), live)) wait_complaint();
}

}  // namespace

void launch(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes,
            const std::function<void()>& body) {
  static const Stacks stacks;
  static const Shared fixed_once = static_shared();
  if (!grid.count() || grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535 || !block.count() ||
      block.count() > 1024 || block.z > 64 || shared_bytes > kSharedLimit)
    throw std::runtime_error("emulator: no GPU launches a grid of " + std::to_string(grid.x) + "x" +
                             std::to_string(grid.y) + "x" + std::to_string(grid.z) + " blocks of " +
                             std::to_string(block.count()) + " threads with " +
                             std::to_string(shared_bytes) + " bytes of dynamic shared memory");
  // On the heap, that a sanitizer sees its end; 16 bytes are all the alignment that CUDA promises.
  const std::unique_ptr<char[]> memory(new char[shared_bytes + 32]);
  const size_t past = (reinterpret_cast<uintptr_t>(memory.get()) + 16) % 32;
  fixed = fixed_once;
  dynamic = {memory.get() + (32 - past) % 32, shared_bytes};
  kernel_body = &body;
  failure.clear();
  position.grid = grid;
  position.block = block;
  for (uint64_t i = 0; i < grid.count(); ++i) {
    const uint64_t at = settings.reverse_blocks ? grid.count() - 1 - i : i;
    position.block_index =
        dim3(unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y));
    run_block(stacks);
    if (!failure.empty()) throw std::runtime_error(describe(kernel) + failure);
  }
}

void fail(const std::string& what) {
  failure = what;
  threads[running].fiber.leave_for(launcher);
  __builtin_unreachable();
}

int lane() { return int(running % kWarp); }

void sync_block() {
  Thread& self = threads[running];
  self.state = State::kAtBarrier;
  Fiber::release(&self.state);
  open_barrier();
  run_next(self.state == State::kReady ? first_of(0, threads.size()) : running);
  Fiber::acquire(&self.received);
}

const Lanes& exchange(unsigned mask, const char* operation, uint64_t value) {
  Thread& self = threads[running];
  if (!(mask >> lane() & 1)) fail(std::string(operation) + " by a lane that its mask leaves out");
  self.state = State::kInWarp;
  self.mask = mask;
  self.operation = operation;
  self.value = value;
  if (orders_memory(operation)) Fiber::release(&self.state);
  open_exchange(mask, operation);
  run_next(self.state == State::kReady ? first_of(warp_begin(), warp_end()) : running);
  if (orders_memory(operation)) Fiber::acquire(&self.received);
  return self.received;
}

void* dynamic_shared() { return dynamic.begin; }

void copy_async(void* shared, const void* global, int bytes, bool valid) {
  if (reinterpret_cast<uintptr_t>(shared) % bytes || reinterpret_cast<uintptr_t>(global) % bytes)
    fail("copy_async of " + std::to_string(bytes) + " bytes between addresses not aligned to them");
  if (!fixed.holds(shared, bytes) && !dynamic.holds(shared, bytes))
    fail("copy_async to an address outside shared memory");
  std::memset(shared, settings.poison, bytes);
  Thread& self = threads[running];
  self.copies.push_back({shared, valid ? global : nullptr, bytes, self.groups});
}

void commit_copies() { ++threads[running].groups; }

void wait_copies(int pending) {
  Thread& self = threads[running];
  while (!self.copies.empty() && self.copies.front().group < self.groups - pending) {
    const Copy& copy = self.copies.front();
    if (copy.global)
      std::memcpy(copy.shared, copy.global, copy.bytes);
    else
      std::memset(copy.shared, 0, copy.bytes);
    self.copies.pop_front();
  }
}

}  // namespace emulator

// For ctypes: every library that is built here has it.
extern "C" __attribute__((visibility("default"))) void emulator_configure(
    int multiprocessors, int reverse_threads, int reverse_blocks, int poison, int mufu_error) {
  emulator::settings = {multiprocessors, reverse_threads != 0, reverse_blocks != 0,
                        static_cast<unsigned char>(poison), mufu_error != 0};
}
