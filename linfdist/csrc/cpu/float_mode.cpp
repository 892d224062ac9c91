#include "cpu/float_mode.h"

#include <cfenv>

namespace linfdist {

void share_float_mode() {
  std::fenv_t mode;  // with the bits that flush denormals: MXCSR on x86, FPCR on AArch64
  std::fegetenv(&mode);
#pragma omp parallel
  std::fesetenv(&mode);
}

}  // namespace linfdist
