// The widest instruction set that both this build and this machine have.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"

namespace linfdist {

namespace baseline {
extern const CpuIsa isa;
}
#if defined(LINFDIST_X86)
namespace avx2 {
extern const CpuIsa isa;
}
namespace avx512 {
extern const CpuIsa isa;
}
#endif

namespace {

const CpuIsa& choose() {
  const char* asked = std::getenv("LINFDIST_ISA");
  const CpuIsa* found = nullptr;
  const auto offer = [&](const CpuIsa& isa, bool supported) {
    if (found || !supported) return;
    if (!asked || std::strcmp(asked, isa.name) == 0) found = &isa;
  };
#if defined(LINFDIST_X86)
  __builtin_cpu_init();
  offer(avx512::isa, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"));
  offer(avx2::isa, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
#endif
  offer(baseline::isa, true);
  if (!found)
    throw std::runtime_error(std::string("LINFDIST_ISA=") + asked +
                             " is not an instruction set of this build and machine; unset it or "
                             "set it to baseline, avx2 or avx512.");
  return *found;
}

}  // namespace

const CpuIsa& cpu_isa() {
  static const CpuIsa& chosen = choose();
  return chosen;
}

}  // namespace linfdist
