// Transposes square blocks of 32-bit words in registers.
#pragma once

#include <utility>

#include "vectors.h"

namespace glm4v {

// One exchange of a transposition: where bit STEP of a lane is set, `a` takes the lane of `b` that is
// STEP below, and `b` keeps its own; elsewhere `b` takes the lane of `a` that is STEP above.
template <int STEP, int... I>
inline void exchange(Bits& a, Bits& b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
    const Bits low = __builtin_shufflevector(a, b, (I & STEP ? LANES + I - STEP : I)...);
    b = __builtin_shufflevector(a, b, (I & STEP ? LANES + I : I + STEP)...);
#else
    const Bits low = __builtin_shuffle(a, b, Bits{(I & STEP ? LANES + I - STEP : I)...});
    b = __builtin_shuffle(a, b, Bits{(I & STEP ? LANES + I : I + STEP)...});
#endif
    a = low;
}

template <int STEP>
inline void transpose_steps(Bits (&rows)[LANES]) {
    for (int i = 0; i < LANES; i++)
        if ((i & STEP) == 0)
            exchange<STEP>(rows[i], rows[i + STEP], std::make_integer_sequence<int, LANES>{});
    if constexpr (STEP > 1) transpose_steps<STEP / 2>(rows);
}

// rows[i][j] becomes rows[j][i].
inline void transpose(Bits (&rows)[LANES]) { transpose_steps<LANES / 2>(rows); }

}  // namespace glm4v
