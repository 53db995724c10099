// The one loop all arithmetic is made of: a tile of rows times lines of two vectors.
#pragma once

#include "vectors.h"

namespace glm4v {

// Bytes that memory is asked for ahead: the processor's own prefetch ends at each page.
constexpr int64_t AHEAD = 8192;

// What memory is asked for while lines of BYTES are read, for the second cache.
struct Ahead {
    const void* first;
    int64_t pace;  // bytes a line
    template <int64_t BYTES>
    void ask(int64_t k) const {
        for (int64_t at = 0; at < BYTES; at += 64)
            __builtin_prefetch(static_cast<const char*>(first) + k * pace + at, 0, 2);
    }
};

// Lines of float32: [k][stride].
struct Floats {
    const float* at;
    int64_t stride;
    Ahead ahead;
    static constexpr int VECTORS = 2;
    static constexpr int64_t BYTES = 2 * LANES * 4;  // of a line of a panel
    static Floats of_panel(const void* panel, Ahead ahead) {
        return {static_cast<const float*>(panel), 2 * LANES, ahead};
    }
    void line(int64_t k, Vec* pair) const {
        ahead.ask<BYTES>(k);
        read(k, pair);
    }
    void read(int64_t k, Vec* pair) const {
        pair[0] = load(at + k * stride);
        pair[1] = load(at + k * stride + LANES);
    }
};

// Lines of bfloat16, two values a word.
struct Halves {
    const uint32_t* at;
    Ahead ahead;
    static constexpr int VECTORS = 2;
    static constexpr int64_t BYTES = LANES * 4;
    static Halves of_panel(const void* panel, Ahead ahead) {
        return {static_cast<const uint32_t*>(panel), ahead};
    }
    void line(int64_t k, Vec* pair) const {
        ahead.ask<BYTES>(k);
        read(k, pair);
    }
    void read(int64_t k, Vec* pair) const {
        Bits words;
        std::memcpy(&words, at + k * LANES, sizeof words);
        pair[0] = as_vec(words << 16);
        pair[1] = as_vec(words & 0xffff0000u);
    }
};

// The same lines of several panels: as many streams of memory at once. The processor asks ahead for
// each by itself, and gets more of them together than of one.
template <class Lines, int PANELS>
struct Beside {
    const char* panels;
    int64_t step;  // bytes from a panel to the next
    static constexpr int VECTORS = PANELS * Lines::VECTORS;
    void line(int64_t k, Vec* vectors) const {
        for (int n = 0; n < PANELS; n++)
            Lines::of_panel(panels + n * step, {}).read(k, vectors + n * Lines::VECTORS);
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
#pragma GCC unroll 8
        for (int v = 0; v < V; v++)
            total[r][v] = from_zero ? Vec{} : load(sums + (r * V + v) * LANES);
#pragma GCC unroll 2
    for (int64_t k = 0; k < count; k++) {
        Vec line[V];
        lines.line(k, line);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const Vec value = all(x[k * K_STEP + r * R_STEP]);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) total[r][v] += value * line[v];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) store(sums + (r * V + v) * LANES, total[r][v]);
}

}  // namespace glm4v
