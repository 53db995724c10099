// The micro-kernel that GEMM and attention share: MR rows of A times rows of two vectors of B.
#pragma once

#include "vectors.h"

namespace glm4v {

// Bytes to prefetch ahead of a read: the hardware prefetcher stops at each page boundary.
constexpr int64_t PREFETCH_BYTES = 8192;

// What to prefetch into the second-level cache while panel rows of BYTES are read.
struct Prefetch {
    const void* first;
    int64_t stride;  // bytes per panel row
    template <int64_t BYTES>
    void issue(int64_t k) const {
        for (int64_t at = 0; at < BYTES; at += 64)
            __builtin_prefetch(static_cast<const char*>(first) + k * stride + at, 0, 2);
    }
    Prefetch after(int64_t rows) const {
        return {static_cast<const char*>(first) + rows * stride, stride};
    }
};

// A panel of float32: [k][stride].
struct F32Panel {
    const float* data;
    int64_t stride;
    Prefetch prefetch;
    static constexpr int VECTORS = 2;
    static constexpr int64_t BYTES = 2 * LANES * 4;  // of a panel row
    static F32Panel of(const void* panel, Prefetch prefetch) {
        return {static_cast<const float*>(panel), 2 * LANES, prefetch};
    }
    void load_row(int64_t k, Vec* pair) const {
        prefetch.issue<BYTES>(k);
        read_row(k, pair);
    }
    void read_row(int64_t k, Vec* pair) const {
        pair[0] = load(data + k * stride);
        pair[1] = load(data + k * stride + LANES);
    }
};

// A panel of bfloat16, two values per 32-bit word.
struct Bf16Panel {
    const uint32_t* data;
    Prefetch prefetch;
    static constexpr int VECTORS = 2;
    static constexpr int64_t BYTES = LANES * 4;
    static Bf16Panel of(const void* panel, Prefetch prefetch) {
        return {static_cast<const uint32_t*>(panel), prefetch};
    }
    void load_row(int64_t k, Vec* pair) const {
        prefetch.issue<BYTES>(k);
        read_row(k, pair);
    }
    void read_row(int64_t k, Vec* pair) const {
        Bits words;
        std::memcpy(&words, data + k * LANES, sizeof words);
        pair[0] = to_vec(words << 16);
        pair[1] = to_vec(words & 0xffff0000u);
    }
};

// A panel of 8-bit integers.
struct I8Panel {
    const int8_t* data;
    Prefetch prefetch;
    static constexpr int VECTORS = 2;
    static constexpr int64_t BYTES = NR;
    static I8Panel of(const void* panel, Prefetch prefetch) {
        return {static_cast<const int8_t*>(panel), prefetch};
    }
    void load_row(int64_t k, Vec* pair) const {
        prefetch.issue<BYTES>(k);
        read_row(k, pair);
    }
    void read_row(int64_t k, Vec* pair) const { widen(data + k * NR, pair); }
};

// The same; a row that was read is kept as float32, for the tiles that follow.
struct WideningPanel {
    const int8_t* data;
    float* widened;
    Prefetch prefetch;
    static constexpr int VECTORS = 2;
    void load_row(int64_t k, Vec* pair) const {
        prefetch.issue<I8Panel::BYTES>(k);
        widen(data + k * NR, pair);
        store(widened + k * NR, pair[0]);
        store(widened + k * NR + LANES, pair[1]);
    }
};

// 8-bit integers that are float32 already; the bytes of the next slice are prefetched.
struct WidenedPanel {
    const float* data;
    Prefetch prefetch;
    static constexpr int VECTORS = 2;
    void load_row(int64_t k, Vec* pair) const {
        prefetch.issue<I8Panel::BYTES>(k);
        pair[0] = load(data + k * NR);
        pair[1] = load(data + k * NR + LANES);
    }
};

// The same row of several panels: as many memory streams at once. The hardware prefetcher follows
// each of them, and gets more bandwidth from several than from one.
template <class Panel, int PANELS>
struct PanelGroup {
    const char* panels;
    int64_t panel_bytes;
    static constexpr int VECTORS = PANELS * Panel::VECTORS;
    void load_row(int64_t k, Vec* vectors) const {
        for (int n = 0; n < PANELS; n++)
            Panel::of(panels + n * panel_bytes, {}).read_row(k, vectors + n * Panel::VECTORS);
    }
};

// Groups of LANES keys, [group][head_dim][LANES]; row k is dimension k of all of them.
template <int COUNT>
struct KeyGroups {
    const float* data;
    int64_t head_dim;
    static constexpr int VECTORS = COUNT;
    void load_row(int64_t k, Vec* vectors) const {
        for (int v = 0; v < COUNT; v++) {
            __builtin_prefetch(data + (v * head_dim + k) * LANES + PREFETCH_BYTES / 4);
            vectors[v] = load(data + (v * head_dim + k) * LANES);
        }
    }
};

// total[r] += a[k][r] * b[k] for k in order. The rows of A are independent: the result of one does
// not depend on which others are computed with it. a(k, r) is at a[k * K_STRIDE + r * R_STRIDE].
template <int ROWS, int64_t K_STRIDE, int64_t R_STRIDE, class Panel>
inline __attribute__((always_inline)) void accumulate(const float* a, const Panel& b,
                                                      int64_t count,
                                                      Vec (&total)[ROWS][Panel::VECTORS]) {
    constexpr int V = Panel::VECTORS;
#pragma GCC unroll 2
    for (int64_t k = 0; k < count; k++) {
        Vec row[V];
        b.load_row(k, row);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const Vec value = broadcast(a[k * K_STRIDE + r * R_STRIDE]);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) total[r][v] += value * row[v];
        }
    }
}

// acc[r] += a[k][r] * b[k], the same with the sums in memory; ACC_STRIDE floats from row to row.
template <int ROWS, int64_t K_STRIDE, int64_t R_STRIDE, int64_t ACC_STRIDE, class Panel>
inline __attribute__((always_inline)) void strided_kernel(const float* a, const Panel& b,
                                                          int64_t count, float* acc,
                                                          bool from_zero) {
    constexpr int V = Panel::VECTORS;
    Vec total[ROWS][V];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++)
            total[r][v] = from_zero ? Vec{} : load(acc + r * ACC_STRIDE + v * LANES);
    accumulate<ROWS, K_STRIDE, R_STRIDE>(a, b, count, total);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) store(acc + r * ACC_STRIDE + v * LANES, total[r][v]);
}

// The same with the rows of the sums next to each other.
template <int ROWS, int64_t K_STRIDE, int64_t R_STRIDE, class Panel>
inline __attribute__((always_inline)) void micro_kernel(const float* a, Panel b, int64_t count,
                                                        float* acc, bool from_zero) {
    constexpr int64_t ACC_STRIDE = Panel::VECTORS * LANES;
    strided_kernel<ROWS, K_STRIDE, R_STRIDE, ACC_STRIDE>(a, b, count, acc, from_zero);
}

// acc[r] += scales * (the sum of a[k][r] * b[k] over one group of k). scales [V], a vector each.
template <int ROWS, int64_t K_STRIDE, int64_t R_STRIDE, class Panel>
inline __attribute__((always_inline)) void group_kernel(const float* a, Panel b, int64_t count,
                                                        const Vec* scales, float* acc) {
    constexpr int V = Panel::VECTORS;
    Vec total[ROWS][V];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) total[r][v] = Vec{};
    accumulate<ROWS, K_STRIDE, R_STRIDE>(a, b, count, total);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            float* at = acc + (r * V + v) * LANES;
            // No choice of a zero here: product and sum are to be fused for all rows alike.
            store(at, load(at) + total[r][v] * scales[v]);
        }
    // The sums stay in memory until the next group. Otherwise GCC keeps half of them in registers that
    // the products need, and stores them twice.
    asm volatile("" ::: "memory");
}

}  // namespace glm4v
