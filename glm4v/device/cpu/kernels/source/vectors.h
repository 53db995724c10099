// Vectors of float32 as wide as the processor's registers, by the compiler's own vector types.
#pragma once

#include <cstdint>
#include <cstring>

namespace glm4v {

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int MOST_ROWS = 14;  // of a tile: 28 sums, 2 weights, 32 registers
#elif defined(__AVX__)
constexpr int LANES = 8;
constexpr int MOST_ROWS = 6;  // 12 sums, 2 weights, 16 registers
#elif defined(__aarch64__)
constexpr int LANES = 4;
constexpr int MOST_ROWS = 12;  // 24 sums, 2 weights, 32 registers
#else
constexpr int LANES = 4;
constexpr int MOST_ROWS = 6;
#endif
constexpr int PANEL = 2 * LANES;  // columns of a weight that lie together

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4)));

inline Vec load(const float* from) {
    Vec value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store(float* to, Vec value) { std::memcpy(to, &value, sizeof value); }

inline Vec all(float value) { return value - Vec{}; }

template <class Wide>
Wide cast(Vec value) {
    Wide bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

template <class Wide>
Vec as_vec(Wide bits) {
    Vec value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float sum(Vec value) {
    float lanes[LANES];
    store(lanes, value);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

inline float largest(Vec value) {
    float lanes[LANES];
    store(lanes, value);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lanes[i] = lanes[i + width] > lanes[i] ? lanes[i + width] : lanes[i];
    return lanes[0];
}

// e^x to 2 units in the last place; below -87 as there, above 88.3 infinite; NaN stays NaN.
inline Vec exponential(Vec x) {
    const Vec low = all(-87.0f), high = all(89.0f);
    x = x < low ? low : x;
    x = x > high ? high : x;
    // x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds to the nearest integer.
    const Vec rounder = all(12582912.0f);
    Vec shifted = x * 1.44269504f + rounder;
    Vec n = shifted - rounder;
    Vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    // The series of e^r with its last coefficients fitted to the interval.
    Vec series = all(1.9875691500e-4f);
    series = series * r + 1.3981999507e-3f;
    series = series * r + 8.3334519073e-3f;
    series = series * r + 4.1665795894e-2f;
    series = series * r + 1.6666665459e-1f;
    series = series * r + 5.0000001201e-1f;
    series = series * r * r + r + 1.0f;
    Ints power = (cast<Ints>(shifted) - cast<Ints>(rounder) + 127) << 23;
    return series * as_vec(power);
}

// x / 2 (1 + erf(x / sqrt 2)), by Abramowitz and Stegun 7.1.26: to 1.5e-7 of x.
inline Vec gelu(Vec x) {
    const Vec z = (x < 0.0f ? -x : x) * 0.70710678f;
    const Vec t = 1.0f / (z * 0.3275911f + 1.0f);
    Vec series = t * 1.061405429f - 1.453152027f;
    series = series * t + 1.421413741f;
    series = series * t - 0.284496736f;
    series = series * t + 0.254829592f;
    const Vec half = series * t * exponential(-z * z) * 0.5f;  // (1 - erf(z)) / 2
    return x * (x < 0.0f ? half : 1.0f - half);
}

}  // namespace glm4v
