// Products of 8-bit weights by the processor's integer dot products of bytes.
//
// An activation is taken as a whole number of steps, and that number as three digits of base 256,
// each from -128 to 127. A step is the power of two with which the greatest activation of a group of
// inputs has 23 bits, so each is off by at most 2^-23 of the greatest. Nothing else is rounded until
// a group's sums become float32: products and sums are of integers.
//
// 64 products take three instructions, where float32 takes four and others that widen weights.
#pragma once

#include "micro_kernel.h"

namespace glm4v {

constexpr int DIGITS = 3;
constexpr int QUAD = 4;  // neighbouring inputs, whose products one lane adds up

// DOT_MR rows of DIGITS numbers are multiplied with two vectors at once, in registers.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
constexpr bool HAS_DOTS = true;
constexpr int DOT_MR = 4;  // 24 accumulators, 2 weights, 32 registers
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
constexpr bool HAS_DOTS = true;
constexpr int DOT_MR = 2;  // 12 accumulators, 2 weights, 16 registers
#else
constexpr bool HAS_DOTS = false;
constexpr int DOT_MR = 1;
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)

inline Ints dot(Ints sum, Ints weights, Ints digits) {
    return Ints(_mm512_dpbusd_epi32(__m512i(sum), __m512i(weights), __m512i(digits)));
}

inline Ints round_to_integers(Vec value) { return Ints(_mm512_cvtps_epi32(__m512(value))); }

inline Ints transpose_bytes(Ints words) {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return Ints(_mm512_shuffle_epi8(__m512i(words), _mm512_broadcast_i32x4(order)));
}

#elif defined(__AVXVNNI__) && !defined(__AVX512F__)

inline Ints dot(Ints sum, Ints weights, Ints digits) {
    return Ints(_mm256_dpbusd_avx_epi32(__m256i(sum), __m256i(weights), __m256i(digits)));
}

inline Ints round_to_integers(Vec value) { return Ints(_mm256_cvtps_epi32(__m256(value))); }

inline Ints transpose_bytes(Ints words) {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return Ints(_mm256_shuffle_epi8(__m256i(words), _mm256_broadcastsi128_si256(order)));
}

#else  // what the processor's instructions do; without them nothing calls it

// sum + the products of four bytes without a sign and four with one, in each lane.
inline Ints dot(Ints sum, Ints weights, Ints digits) {
    for (int byte = 0; byte < 32; byte += 8)
        sum += (weights >> byte & 255) * (digits << (24 - byte) >> 24);
    return sum;
}

// To the nearest integer, half to even.
inline Ints round_to_integers(Vec value) {
    Ints rounded;
    for (int lane = 0; lane < LANES; lane++) rounded[lane] = __builtin_lrintf(value[lane]);
    return rounded;
}

// Each four words: the first bytes of all four become the first word, and so on.
inline Ints transpose_bytes(Ints words) {
    Ints transposed{};
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < QUAD; i++)
            transposed[lane] |= (words[lane / QUAD * QUAD + i] >> lane % QUAD * 8 & 255) << i * 8;
    return transposed;
}

#endif

// A tile of rows for one group of inputs, in words of 32 bits: its steps [rows] as float32, first
// sums [rows][DIGITS], and digits [quads][rows][DIGITS], four inputs in a word.
//
// Weights are stored without a sign, WEIGHT_OFFSET greater. The first sums take that off again: they
// are -WEIGHT_OFFSET times the sums of a row's digits.
constexpr int WEIGHT_OFFSET = 128;
constexpr int64_t GROUP_WORDS = 1 + DIGITS;  // of a row, in front of its digits

// Words of a row in so many groups of so many quads in all.
inline int64_t digit_words(int64_t groups, int64_t quads) {
    return groups * GROUP_WORDS + quads * DIGITS;
}

// Some rows of one or more panels, four inputs each.
template <int PANELS>
struct QuadPanels {
    const char* first;
    int64_t panel_bytes;
    static constexpr int VECTORS = 2 * PANELS;
    static constexpr int64_t BYTES = NR * QUAD;  // of a panel row
    Ints read(int64_t quad, int v) const {
        Ints weights;
        const int64_t at = quad * BYTES + v % 2 * BYTES / 2;
        std::memcpy(&weights, first + v / 2 * panel_bytes + at, sizeof weights);
        return weights;
    }
};

inline Ints broadcast_word(int32_t value) { return value - Ints{}; }

// total[r][v] += digits [quads][ROWS] * panels. One panel keeps its weights in registers, several
// keep the digits there.
template <int ROWS, int PANELS>
inline __attribute__((always_inline)) void dot_quads(const int32_t* digits,
                                                     QuadPanels<PANELS> panels, int64_t quads,
                                                     Prefetch prefetch,
                                                     Ints (&total)[ROWS][2 * PANELS]) {
#pragma GCC unroll 2
    for (int64_t quad = 0; quad < quads; quad++, digits += ROWS) {
        if constexpr (PANELS == 1) {
            prefetch.issue<QuadPanels<1>::BYTES>(quad);
            const Ints weights[2] = {panels.read(quad, 0), panels.read(quad, 1)};
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++) {
                const Ints digit = broadcast_word(digits[r]);
                total[r][0] = dot(total[r][0], weights[0], digit);
                total[r][1] = dot(total[r][1], weights[1], digit);
            }
        } else {
#pragma GCC unroll 8
            for (int v = 0; v < 2 * PANELS; v++) {
                const Ints weights = panels.read(quad, v);
#pragma GCC unroll 16
                for (int r = 0; r < ROWS; r++)
                    total[r][v] = dot(total[r][v], weights, broadcast_word(digits[r]));
            }
        }
    }
}

// acc [ROWS][2 * PANELS] += scales * the products of one group. scales [2 * PANELS], a vector each.
template <int ROWS, int PANELS>
inline __attribute__((always_inline)) void dot_kernel(const float* group,
                                                      QuadPanels<PANELS> panels, int64_t quads,
                                                      Prefetch prefetch, const Vec* scales,
                                                      float* acc) {
    constexpr int V = 2 * PANELS;
    const int32_t* words = reinterpret_cast<const int32_t*>(group + ROWS);
    Ints total[ROWS * DIGITS][V];
#pragma GCC unroll 16
    for (int i = 0; i < ROWS * DIGITS; i++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) total[i][v] = broadcast_word(words[i]);
    dot_quads<ROWS * DIGITS, PANELS>(words + ROWS * DIGITS, panels, quads, prefetch, total);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
            // The lower two digits' sums fit in 32 bits together: 256 inputs are below 2^22 each.
            const Ints low = total[r * DIGITS][v] + (total[r * DIGITS + 1][v] << 8);
            const Ints high = total[r * DIGITS + 2][v];
            const Vec sum = __builtin_convertvector(high, Vec) * 65536.0f +
                            __builtin_convertvector(low, Vec);
            float* at = acc + (r * V + v) * LANES;
            store(at, load(at) + sum * (scales[v] * group[r]));
        }
}

}  // namespace glm4v
