// Compiled once for each instruction set, LINFDIST_ISA naming it (see CMakeLists.txt).
#include "cpu/adamw.h"
#include "cpu/factors.h"
#include "cpu/interval.h"
#include "cpu/lse.h"

namespace linfdist::LINFDIST_ISA {

#define LINFDIST_NAME_OF(isa) #isa
#define LINFDIST_NAME(isa) LINFDIST_NAME_OF(isa)

extern const CpuIsa isa;
const CpuIsa isa{LINFDIST_NAME(LINFDIST_ISA),
                 {forward<float>, backward<float>, interval<float>, lse_forward<float>,
                  lse_backward<float>, lse_factors<float>, lse_combine<float>, adamw<float>},
                 {forward<double>, backward<double>, interval<double>, lse_forward<double>,
                  lse_backward<double>, lse_factors<double>, lse_combine<double>, adamw<double>}};

}  // namespace linfdist::LINFDIST_ISA
