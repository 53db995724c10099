// SIMD vectors of float32 as wide as the processor's registers, by the compiler's vector types.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace glm4v {

// A micro-kernel computes MR x NR values in registers; a panel of a packed weight has NR columns.
#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int MR = 14;  // 28 accumulators, 2 weights, 32 registers
#elif defined(__AVX__)
constexpr int LANES = 8;
constexpr int MR = 6;  // 12 accumulators, 2 weights, 16 registers
#elif defined(__aarch64__)
constexpr int LANES = 4;
constexpr int MR = 12;  // 24 accumulators, 2 weights, 32 registers
#else
constexpr int LANES = 4;
constexpr int MR = 6;
#endif
constexpr int NR = 2 * LANES;

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));

inline Vec load(const float* from) {
    Vec value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store(float* to, Vec value) { std::memcpy(to, &value, sizeof value); }

inline Vec broadcast(float value) { return value - Vec{}; }

template <class Wide>
Wide bit_cast(Vec value) {
    Wide bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

template <class Wide>
Vec to_vec(Wide bits) {
    Vec value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// NR 8-bit integers as two vectors of float32. By intrinsics: GCC 12 widens bytes one by one where
// only the vector types say what is meant.
inline void widen(const int8_t* from, Vec* pair) {
#if defined(__AVX512F__)
    for (int v = 0; v < 2; v++) {
        const auto bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + v * LANES));
        pair[v] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    }
#elif defined(__AVX2__)
    for (int v = 0; v < 2; v++) {
        const auto bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + v * LANES));
        pair[v] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    }
#elif defined(__aarch64__)
    const int16x8_t words = vmovl_s8(vld1_s8(from));
    pair[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)));
    pair[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(words)));
#else
    for (int v = 0; v < 2; v++) {
        pair[v] = Vec{};
        for (int lane = 0; lane < LANES; lane++) pair[v][lane] = from[v * LANES + lane];
    }
#endif
}

// The larger of each pair of lanes; b where either is NaN. By intrinsics: GCC 12 makes two instructions
// of the comparison.
inline Vec maximum(Vec a, Vec b) {
#if defined(__AVX512F__)
    return to_vec(_mm512_max_ps(bit_cast<__m512>(a), bit_cast<__m512>(b)));
#elif defined(__AVX2__)
    return to_vec(_mm256_max_ps(bit_cast<__m256>(a), bit_cast<__m256>(b)));
#else
    return a > b ? a : b;
#endif
}

inline float reduce_add(Vec value) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(bit_cast<__m512>(value));
#else
    float lanes[LANES];
    store(lanes, value);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
#endif
}

inline float reduce_max(Vec value) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps(bit_cast<__m512>(value));
#else
    float lanes[LANES];
    store(lanes, value);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lanes[i] = lanes[i + width] > lanes[i] ? lanes[i + width] : lanes[i];
    return lanes[0];
#endif
}

// 2^x within 1e-7 of it for x <= 0; clamped below -125; NaN stays NaN.
inline Vec power_of_two(Vec x) {
    x = maximum(broadcast(-125.0f), x);
    // x = n + r with |r| <= 1/2; adding 1.5 * 2^23 rounds to the nearest integer.
    const Vec rounder = broadcast(12582912.0f);
    const Vec shifted = x + rounder;
    const Vec r = x - (shifted - rounder);
    // The polynomial of least relative error on the interval.
    Vec series = broadcast(1.5345812e-4f);
    series = series * r + 1.3399931e-3f;
    series = series * r + 9.6184891e-3f;
    series = series * r + 5.5503286e-2f;
    series = series * r + 2.4022646e-1f;
    series = series * r + 6.9314718e-1f;
    series = series * r + 1.0f;
    return to_vec(bit_cast<Ints>(series) + (bit_cast<Ints>(shifted) << 23));
}

// e^x to 2 ULP; clamped below -87, infinite above 88.3; NaN stays NaN.
inline Vec exponential(Vec x) {
    const Vec low = broadcast(-87.0f), high = broadcast(89.0f);
    x = x < low ? low : x;
    x = x > high ? high : x;
    // x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds to the nearest integer.
    const Vec rounder = broadcast(12582912.0f);
    Vec shifted = x * 1.44269504f + rounder;
    Vec n = shifted - rounder;
    Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    // The Taylor series of e^r, its last coefficients fitted to the interval.
    Vec series = broadcast(1.9875691500e-4f);
    series = series * r + 1.3981999507e-3f;
    series = series * r + 8.3334519073e-3f;
    series = series * r + 4.1665795894e-2f;
    series = series * r + 1.6666665459e-1f;
    series = series * r + 5.0000001201e-1f;
    series = series * r * r + r + 1.0f;
    Ints power = (bit_cast<Ints>(shifted) - bit_cast<Ints>(rounder) + 127) << 23;
    return series * to_vec(power);
}

// x / 2 (1 + erf(x / sqrt 2)), within 1.5e-7 |x|. Source: Abramowitz and Stegun 7.1.26.
inline Vec gelu(Vec x) {
    const Vec size = x < 0.0f ? -x : x;
    const Vec t = 1.0f / (size * (0.3275911f * 0.70710678f) + 1.0f);
    // The coefficients divided by two.
    Vec series = t * 0.5307027145f - 0.7265760135f;
    series = series * t + 0.7107068705f;
    series = series * t - 0.142248368f;
    series = series * t + 0.127414796f;
    // (1 - erf(z)) / 2, of which e^(-z^2) is a power of two
    const Vec half = series * t * power_of_two(x * x * (-0.5f * 1.44269504f));
    return x * (x < 0.0f ? half : 1.0f - half);
}

}  // namespace glm4v
