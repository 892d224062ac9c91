// A fiber: a stack of its own, left and entered again by hand. Sanitizers, where one is built in, are
// told. To ThreadSanitizer every fiber is a thread, ordered with others by acquire() and release()
// alone.
#pragma once

#include <ucontext.h>

#include <cstddef>

#if defined(EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
#elif defined(EMULATOR_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {

class Fiber {
 public:
  // Will run `main`, which never returns, when it is entered for the first time. A fiber that was
  // not created is whoever leaves it first.
  void create(char* stack, size_t size, void (*main)()) {
    getcontext(&start_);
    start_.uc_stack = {stack, 0, size};
    makecontext(&start_, main, 0);
    fresh_ = true;
    stack_ = stack;
    size_ = size;
#if defined(EMULATOR_TSAN)
    // One for all blocks, which run one after the other: making it takes long.
    if (!handle_) handle_ = __tsan_create_fiber(0);
#endif
  }

  // Returns when somebody enters this fiber again. The builtins save five words, no signal mask:
  // a tenth of the time of swapcontext.
  void leave_for(Fiber& next) {
#if defined(EMULATOR_TSAN)
    if (!handle_) handle_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(next.handle_, __tsan_switch_to_fiber_no_sync);
#elif defined(EMULATOR_ASAN)
    __sanitizer_start_switch_fiber(&handle_, next.stack_, next.size_);
#endif
    left_ = this;
    if (__builtin_setjmp(jump_) == 0) next.enter();
    arrived();
  }

  // To be called first in `main`.
  void arrived() {
#if defined(EMULATOR_ASAN)
    const void* stack;
    size_t size;
    __sanitizer_finish_switch_fiber(handle_, &stack, &size);
    if (!left_->stack_) left_->stack_ = stack, left_->size_ = size;
#endif
  }

  static void acquire([[maybe_unused]] void* at) {
#if defined(EMULATOR_TSAN)
    __tsan_acquire(at);
#endif
  }
  static void release([[maybe_unused]] void* at) {
#if defined(EMULATOR_TSAN)
    __tsan_release(at);
#endif
  }

 private:
  [[gnu::noinline]] void enter() {
    if (!fresh_) __builtin_longjmp(jump_, 1);
    fresh_ = false;
    setcontext(&start_);
  }

  static inline Fiber* left_ = nullptr;
  ucontext_t start_;
  void* jump_[5];
  bool fresh_ = false;
  const void* stack_ = nullptr;
  size_t size_ = 0;
  void* handle_ = nullptr;  // the sanitizer's
};

}  // namespace emulator
