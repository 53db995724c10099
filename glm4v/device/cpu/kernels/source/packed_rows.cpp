#include "packed_rows.h"

#include <algorithm>
#include <cmath>

#include "dots.h"
#include "thread_pool.h"
#include "transpose.h"

namespace glm4v {
namespace {

constexpr int64_t PACK_K = 384;  // inputs of a tile that one task packs

float rms_scale(const Norm& norm, const float* row, int64_t in_features) {
    Vec squares[2] = {};
    int64_t k = 0;
    for (; k + NR <= in_features; k += NR)
        for (int v = 0; v < 2; v++) {
            const Vec value = load(row + k + v * LANES);
            squares[v] += value * value;
        }
    float total = reduce_add(squares[0] + squares[1]);
    for (; k < in_features; k++) total += row[k] * row[k];
    return 1.0f / std::sqrt(total / static_cast<float>(in_features) + norm.eps);
}

// Some rows of x, and what the norm multiplies them with.
struct Source {
    const Norm* norm;
    const float* scales;
    const float* x;
    int64_t rows, in_features;

    float value(int64_t r, int64_t k) const {
        const float value = x[r * in_features + k];
        return norm == nullptr ? value : value * scales[r] * norm->weight[k];
    }

    // LANES inputs of a row, of which k is the first.
    Vec values(int64_t r, int64_t k) const {
        const Vec values = load(x + r * in_features + k);
        return norm == nullptr ? values : values * scales[r] * load(norm->weight + k);
    }
};

// Packs the inputs [first, last) of one tile: squares at a time, whose rows are stored as whole
// vectors while what they spill over is written later.
void pack_tile(const Source& source, int64_t first, int64_t last, float* tile) {
    const int64_t rows = source.rows, whole = ceil_div(rows, LANES) * LANES;
    int64_t k = first;
    for (; (last - k - LANES) * rows + rows >= whole; k += LANES) {
        Bits squares[ceil_div(MR, LANES)][LANES] = {};
        for (int64_t first_row = 0; first_row < rows; first_row += LANES) {
            auto& square = squares[first_row / LANES];
            const int64_t here = std::min<int64_t>(rows - first_row, LANES);
            for (int64_t r = 0; r < here; r++)
                square[r] = bit_cast<Bits>(source.values(first_row + r, k));
            transpose(square);
        }
        for (int64_t i = 0; i < LANES; i++)
            for (int64_t r = 0; r < rows; r += LANES)
                store(tile + (k + i) * rows + r, to_vec(squares[r / LANES][i]));
    }
    for (; k < last; k++)
        for (int64_t r = 0; r < rows; r++) tile[k * rows + r] = source.value(r, k);
}

// The power of two that is a step, and its reciprocal; NaN for a group that is not finite.
struct Step {
    float value, inverse;

    // greatest: the magnitude of the greatest value, as the bits of a float32.
    static Step of(int32_t greatest) {
        // 2^17 more: 1.99 times a power of two would need a first digit of 128.
        int32_t exponent = (greatest + (1 << 17)) >> 23;
        exponent = std::max(exponent, 23);  // below 2^-104, or the step were no normal number
        const int32_t bits[2] = {(exponent - 22) << 23, (276 - exponent) << 23};
        Step step;
        std::memcpy(&step, bits, sizeof step);
        if (greatest >= 0x7f800000) step.value = __builtin_nanf("");
        return step;
    }
};

Step step_of(const float* values, int64_t count) {
    Ints greatest{};
    for (int64_t k = 0; k < count; k += LANES) {
        const Ints magnitude = bit_cast<Ints>(load(values + k)) & 0x7fffffff;
        greatest = magnitude > greatest ? magnitude : greatest;
    }
    int32_t most = 0;
    for (int lane = 0; lane < LANES; lane++) most = std::max<int32_t>(most, greatest[lane]);
    return Step::of(most);
}

// Row r of a group of `rows`. values [quads * QUAD], and zeros up to a whole vector.
void write_digits(const float* values, int64_t quads, int64_t rows, int64_t r, float* group) {
    const Step step = step_of(values, quads * QUAD);
    group[r] = step.value;
    float* to = group + rows * GROUP_WORDS + r * DIGITS;
    const Ints four_offsets = Ints(Bits{} + WEIGHT_OFFSET * 0x01010101u);
    Ints sums{};
    for (int64_t quad = 0; quad < quads; quad += LANES / QUAD) {
        const Ints integers = round_to_integers(load(values + quad * QUAD) * step.inverse);
        // Bytes of a number that is 128 greater in each digit, less 128 in each.
        const Ints digits = transpose_bytes((integers + 0x808080) ^ 0x808080);
        sums = dot(sums, four_offsets, digits);
        int32_t words[LANES];
        std::memcpy(words, &digits, sizeof words);
        const int64_t count = std::min<int64_t>(quads - quad, LANES / QUAD);
        for (int64_t q = 0; q < count; q++, to += rows * DIGITS)
            std::memcpy(to, words + q * QUAD, DIGITS * sizeof(float));
    }
    int32_t first_sums[DIGITS] = {};
    for (int lane = 0; lane < LANES; lane++)
        if (lane % QUAD < DIGITS) first_sums[lane % QUAD] -= sums[lane];
    std::memcpy(group + rows + r * DIGITS, first_sums, sizeof first_sums);
}

// Packs the groups [first, last) of one tile.
void pack_groups(const Weight& weight, const Source& source, int64_t first, int64_t last,
                 float* tile) {
    const Extent extent = extent_of(weight);
    const int64_t zeros = weight.lead % QUAD;  // in front
    for (int64_t g = first; g < last; g++) {
        const int64_t quad = std::max<int64_t>(g * extent.group - extent.lead, 0);
        const int64_t quads = std::min((g + 1) * extent.group - extent.lead, extent.count) - quad;
        const int64_t k = std::max<int64_t>(quad * QUAD - zeros, 0);
        const int64_t end = std::min((quad + quads) * QUAD - zeros, weight.in_features);
        float* group = tile + source.rows * digit_words(g, quad);
        for (int64_t r = 0; r < source.rows; r++) {
            alignas(64) float values[MOST_GROUP] = {};
            float* to = values + k + zeros - quad * QUAD;
            int64_t i = 0;
            for (; k + i + LANES <= end; i += LANES) store(to + i, source.values(r, k + i));
            for (; k + i < end; i++) to[i] = source.value(r, k + i);
            write_digits(values, quads, source.rows, r, group);
        }
    }
}

}  // namespace

PackedRows pack_rows(const Weight& weight, const Norm* norm, int64_t rows, const float* x) {
    const int64_t in_features = weight.in_features;
    const int64_t groups = weight.bits == 8 ? group_count(weight) : 0;
    PackedRows packed{rows, MR, in_features, x};
    if (has_digits(weight)) {
        packed.most = DOT_MR;
        packed.words = digit_words(groups, extent_of(weight).count);
    } else if (rows == 1 && norm == nullptr) {
        return packed;
    }
    float* values = thread_scratch().packed_a.floats(rows * packed.words + rows);
    float* scales = values + rows * packed.words;
    packed.values = values;
    if (norm != nullptr)
        thread_pool()->run(packed.count(), [&](int64_t t) {
            for (int64_t row = packed.first(t); row < packed.first(t + 1); row++)
                scales[row] = rms_scale(*norm, x + row * in_features, in_features);
        });
    const int64_t pieces = ceil_div(in_features, PACK_K);
    thread_pool()->run(packed.count() * pieces, [&](int64_t task) {
        const int64_t t = task / pieces, piece = task % pieces, first = packed.first(t);
        const Source source{norm, scales + first, x + first * in_features, packed.size(t),
                            in_features};
        float* tile = values + first * packed.words;
        if (has_digits(weight)) {
            pack_groups(weight, source, groups * piece / pieces, groups * (piece + 1) / pieces,
                        tile);
            return;
        }
        pack_tile(source, piece * PACK_K, std::min((piece + 1) * PACK_K, in_features), tile);
    });
    return packed;
}

}  // namespace glm4v
