// Where the threads of a block live: their stacks, and the memory that they share.
#pragma once

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <stdexcept>

namespace emulator {

constexpr size_t kStack = 256 << 10;

// Stacks with an unmapped page below each, so that an overflow is a fault and not a wrong result.
struct Stacks {
  char* base;
  size_t page = size_t(sysconf(_SC_PAGESIZE)), step = kStack + page, count = 1024;
  Stacks() {
    base = static_cast<char*>(
        mmap(nullptr, step * count, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (base == MAP_FAILED) throw std::runtime_error("emulator: no memory for the threads' stacks");
    for (size_t i = 0; i < count; ++i) mprotect(of(i), kStack, PROT_READ | PROT_WRITE);
  }
  char* of(size_t thread) const { return base + thread * step + page; }
};

struct Shared {
  char* begin = nullptr;
  size_t size = 0;
  bool holds(const void* at, int bytes) const {
    return at >= begin && static_cast<const char*>(at) + bytes <= begin + size;
  }
};

// The TLS segment of this module, which is all __shared__ arrays of all kernels.
inline Shared static_shared() {
  [[maybe_unused]] static thread_local volatile char anchor;
  anchor = 0;  // the segment is made on first use
  Shared found;
  dl_iterate_phdr(
      [](dl_phdr_info* module, size_t, void* out) {
        const char* here = reinterpret_cast<const char*>(&static_shared);
        for (int i = 0; i < module->dlpi_phnum; ++i) {
          const auto& part = module->dlpi_phdr[i];
          const char* begin = reinterpret_cast<const char*>(module->dlpi_addr + part.p_vaddr);
          if (part.p_type != PT_LOAD || here < begin || here >= begin + part.p_memsz) continue;
          for (int j = 0; j < module->dlpi_phnum; ++j)
            if (module->dlpi_phdr[j].p_type == PT_TLS)
              *static_cast<Shared*>(out) = {static_cast<char*>(module->dlpi_tls_data),
                                            size_t(module->dlpi_phdr[j].p_memsz)};
        }
        return 0;
      },
      &found);
  return found;
}

}  // namespace emulator
