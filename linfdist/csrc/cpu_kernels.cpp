// Compiled once for each instruction set, LINFDIST_ISA naming it (see CMakeLists.txt).
#include "cpu_adamw.h"
#include "cpu_backward.h"
#include "cpu_interval.h"

namespace linfdist::LINFDIST_ISA {

#define LINFDIST_NAME_OF(isa) #isa
#define LINFDIST_NAME(isa) LINFDIST_NAME_OF(isa)

extern const CpuIsa isa;
const CpuIsa isa{LINFDIST_NAME(LINFDIST_ISA),
                 {forward<float>, backward<float>, interval<float>, adamw<float>},
                 {forward<double>, backward<double>, interval<double>, adamw<double>}};

}  // namespace linfdist::LINFDIST_ISA
