// The floating-point mode: how results are rounded, and whether denormals count.
#pragma once

namespace linfdist {

// Gives every thread of the caller's OpenMP team the caller's mode. A mode belongs to a thread, and a
// thread of the pool keeps the one that its maker had when it was made.
void share_float_mode();

}  // namespace linfdist
