#include "matrix_source.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cfloat>
#include <cstring>

#include "vectors.h"

namespace glm4v {
namespace {

constexpr int64_t item_bytes(int32_t dtype) { return dtype == F32 ? 4 : dtype == I8 ? 1 : 2; }

void read_file(int file, int64_t offset, int64_t bytes, char* to) {
    while (bytes > 0) {
        const ssize_t done = pread(file, to, bytes, offset);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) throw ReadError(done < 0 ? errno : 0);
        offset += done;
        bytes -= done;
        to += done;
    }
}

void read_span(const RowSpan& span, int64_t first, int64_t bytes, char* to) {
    if (span.memory != nullptr)
        std::memcpy(to, static_cast<const char*>(span.memory) + first * span.stride, bytes);
    else
        read_file(span.file, span.offset + first * span.stride, bytes, to);
}

// Rows as they are stored, [count][columns]; rows without gaps are read at once.
void read_stored(const MatrixSource& source, int64_t first, int64_t count, char* to) {
    const int64_t row_bytes = source.columns * item_bytes(source.dtype);
    for (int64_t s = 0; s < source.span_count && count > 0; s++) {
        const RowSpan& span = source.spans[s];
        const int64_t here = std::min(count, std::max<int64_t>(0, span.rows - first));
        const int64_t at_once = span.stride == row_bytes ? here : 1;
        for (int64_t row = 0; row < here; row += at_once, to += at_once * row_bytes)
            read_span(span, first + row, at_once * row_bytes, to);
        first = std::max<int64_t>(0, first - span.rows);
        count -= here;
    }
}

// Exact, subnormal values and NaN included.
float from_half(uint16_t half) {
    const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
    uint32_t bits = magnitude;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;  // the difference of the exponents' biases
    std::memcpy(&bits, &value, sizeof bits);
    if (magnitude >= 0x0f800000) bits = magnitude | 0x7f800000;  // infinite, or NaN
    bits |= static_cast<uint32_t>(half & 0x8000) << 16;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

float from_bfloat16(uint16_t value) {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

// To the nearest, half to even; NaN stays NaN.
uint16_t to_bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded;
}

// Calls write(i, value) for all values of rows in another dtype than float32.
template <class Write>
void for_halves(const MatrixSource& source, int64_t first, int64_t count, const Write& write) {
    const int64_t values = count * source.columns;
    auto* stored = reinterpret_cast<uint16_t*>(
        thread_scratch().stored.floats(ceil_div(values * 2, sizeof(float))));
    read_stored(source, first, count, reinterpret_cast<char*>(stored));
    if (source.dtype == BF16)
        for (int64_t i = 0; i < values; i++) write(i, from_bfloat16(stored[i]));
    else
        for (int64_t i = 0; i < values; i++) write(i, from_half(stored[i]));
}

}  // namespace

void read_rows(const MatrixSource& source, int64_t first, int64_t count, float* to) {
    if (source.dtype == F32)
        read_stored(source, first, count, reinterpret_cast<char*>(to));
    else
        for_halves(source, first, count, [&](int64_t i, float value) { to[i] = value; });
}

void read_rows(const MatrixSource& source, int64_t first, int64_t count, uint16_t* to) {
    if (source.dtype == BF16) {
        read_stored(source, first, count, reinterpret_cast<char*>(to));
    } else if (source.dtype == F16) {
        for_halves(source, first, count,
                   [&](int64_t i, float value) { to[i] = to_bfloat16(value); });
    } else {
        const int64_t values = count * source.columns;
        float* wide = thread_scratch().stored.floats(values);
        read_stored(source, first, count, reinterpret_cast<char*>(wide));
        for (int64_t i = 0; i < values; i++) to[i] = to_bfloat16(wide[i]);
    }
}

void read_rows(const MatrixSource& source, int64_t first, int64_t count, int8_t* to) {
    read_stored(source, first, count, reinterpret_cast<char*>(to));
}

namespace {

// The greatest magnitude of some values. As integers, magnitudes are in the same order, and NaN and
// infinite ones above all others.
float greatest_magnitude(const float* values, int64_t count) {
    Ints most = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Ints value = bit_cast<Ints>(load(values + i)) & 0x7fffffff;
        most = value > most ? value : most;
    }
    int32_t found = 0;
    for (int lane = 0; lane < LANES; lane++) found = std::max(found, most[lane]);
    for (; i < count; i++) {
        int32_t bits;
        std::memcpy(&bits, values + i, sizeof bits);
        found = std::max(found, bits & 0x7fffffff);
    }
    if (found >= 0x7f800000) throw NotFinite();
    float value;
    std::memcpy(&value, &found, sizeof value);
    return value;
}

// value / scale, rounded to the nearest, half to even: adding 1.5 * 2^23 does, and leaves the integer
// in the low byte.
void divide(const float* values, int64_t count, float scale, int8_t* integers) {
    constexpr float ROUNDER = 12582912.0f;
    for (int64_t i = 0; i < count; i++) {
        const float rounded = values[i] / scale + ROUNDER;
        int32_t bits;
        std::memcpy(&bits, &rounded, sizeof bits);
        integers[i] = static_cast<int8_t>(bits);
    }
}

}  // namespace

void quantize_row(const float* values, int64_t columns, int64_t group, int8_t* integers,
                  float* scales) {
    for (int64_t k = 0; k < columns; k += group, scales++) {
        const int64_t count = std::min(group, columns - k);
        *scales = greatest_magnitude(values + k, count) / 127;
        if (*scales < FLT_MIN) {
            *scales = 0;
            std::memset(integers + k, 0, count);
        } else {
            divide(values + k, count, *scales, integers + k);
        }
    }
}

}  // namespace glm4v
