// The one loop all arithmetic is made of: a tile of rows times lines of two vectors.
#pragma once

#include "vectors.h"

namespace glm4v {

// Bytes that memory is asked for ahead: the processor's own prefetch ends at each page.
constexpr int64_t AHEAD = 8192;

// Lines of float32: [k][stride].
struct Floats {
    const float* at;
    int64_t stride;
    static constexpr int VECTORS = 2;
    void line(int64_t k, Vec* pair) const {
        __builtin_prefetch(at + k * stride + AHEAD / 4);
        __builtin_prefetch(at + k * stride + AHEAD / 4 + LANES);
        pair[0] = load(at + k * stride);
        pair[1] = load(at + k * stride + LANES);
    }
};

// Lines of bfloat16, two values a word.
struct Halves {
    const uint32_t* at;
    static constexpr int VECTORS = 2;
    void line(int64_t k, Vec* pair) const {
        Bits words;
        __builtin_prefetch(at + k * LANES + AHEAD / 4);
        std::memcpy(&words, at + k * LANES, sizeof words);
        pair[0] = as_vec(words << 16);
        pair[1] = as_vec(words & 0xffff0000u);
    }
};

// Vectors of float32, [v][count][LANES].
template <int COUNT>
struct Groups {
    const float* at;
    int64_t count;
    static constexpr int VECTORS = COUNT;
    void line(int64_t k, Vec* vectors) const {
        for (int v = 0; v < COUNT; v++) {
            __builtin_prefetch(at + (v * count + k) * LANES + AHEAD / 4);
            vectors[v] = load(at + (v * count + k) * LANES);
        }
    }
};

// sums[r] += x[k][r] * line[k] for k in order, each row on its own: its sums are the same whatever
// rows stand beside it.  x(k, r) lies at x[k * K_STEP + r * R_STEP].
template <int ROWS, int64_t K_STEP, int64_t R_STEP, class Lines>
inline __attribute__((always_inline)) void multiply(const float* x, Lines lines, int64_t count,
                                                    float* sums, bool from_zero) {
    constexpr int V = Lines::VECTORS;
    Vec total[ROWS][V];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++)
            total[r][v] = from_zero ? Vec{} : load(sums + (r * V + v) * LANES);
    for (int64_t k = 0; k < count; k++) {
        Vec line[V];
        lines.line(k, line);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const Vec value = all(x[k * K_STEP + r * R_STEP]);
#pragma GCC unroll 2
            for (int v = 0; v < V; v++) total[r][v] += value * line[v];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) store(sums + (r * V + v) * LANES, total[r][v]);
}

}  // namespace glm4v
