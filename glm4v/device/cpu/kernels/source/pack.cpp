#include <algorithm>
#include <cstring>

#include "gemm.h"
#include "matrix_source.h"
#include "thread_pool.h"
#include "transpose.h"

namespace glm4v {
namespace {

// Some rows of the weight, in the order of a panel's columns.
struct RowRange {
    int64_t first, count;
};

// The rows that vector v of a panel is filled from; fewer than LANES at the last columns.
RowRange rows_of_vector(const Weight& weight, int64_t panel, int64_t v) {
    const bool is_gated = weight.epilogue == SILU_GATE;
    const int64_t column = panel * columns_of_panel(weight) + (is_gated ? 0 : v * LANES);
    const int64_t count = std::clamp<int64_t>(weight.out_features - column, 0, LANES);
    return {column + (is_gated ? v * weight.out_features : 0), count};
}

// Reads the rows of a panel: to [NR][columns], zeros where there is no row.
template <class Value>
void read_panel(const Weight& weight, const MatrixSource& source, int64_t panel, Value* to) {
    const int64_t columns = source.columns;
    const RowRange vectors[2] = {rows_of_vector(weight, panel, 0), rows_of_vector(weight, panel, 1)};
    if (vectors[0].first + LANES == vectors[1].first && vectors[0].count == LANES) {
        read_rows(source, vectors[0].first, LANES + vectors[1].count, to);
    } else {
        for (int v = 0; v < 2; v++)
            if (vectors[v].count > 0)
                read_rows(source, vectors[v].first, vectors[v].count, to + v * LANES * columns);
    }
    for (int v = 0; v < 2; v++)
        std::fill(to + (v * LANES + vectors[v].count) * columns, to + (v + 1) * LANES * columns,
                  Value{});
}

inline Bits load_words(const void* from) {
    Bits words;
    std::memcpy(&words, from, sizeof words);
    return words;
}

inline void store_words(void* to, Bits words) { std::memcpy(to, &words, sizeof words); }

// Rows [NR][pitch] of a panel -> [count][NR]; blocks in registers, and one by one what is left.

void pack_rows(const float* rows, int64_t pitch, int64_t count, float* to) {
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES)
        for (int v = 0; v < 2; v++) {
            Bits block[LANES];
            for (int i = 0; i < LANES; i++) block[i] = load_words(rows + (v * LANES + i) * pitch + k);
            transpose(block);
            for (int i = 0; i < LANES; i++) store_words(to + (k + i) * NR + v * LANES, block[i]);
        }
    for (; k < count; k++)
        for (int i = 0; i < NR; i++) to[k * NR + i] = rows[i * pitch + k];
}

// bfloat16: the two vectors of a row in words. A word of a row holds two of its values.
void pack_rows(const uint16_t* rows, int64_t pitch, int64_t count, uint16_t* to) {
    int64_t k = 0;
    for (; k + 2 * LANES <= count; k += 2 * LANES) {
        Bits even[LANES], odd[LANES];
        for (int i = 0; i < LANES; i++) {
            const Bits first = load_words(rows + i * pitch + k);
            const Bits second = load_words(rows + (LANES + i) * pitch + k);
            even[i] = (first & 0xffffu) | second << 16;
            odd[i] = first >> 16 | (second & 0xffff0000u);
        }
        transpose(even);
        transpose(odd);
        for (int i = 0; i < LANES; i++) {
            store_words(to + (k + 2 * i) * NR, even[i]);
            store_words(to + (k + 2 * i + 1) * NR, odd[i]);
        }
    }
    for (; k < count; k++)
        for (int lane = 0; lane < LANES; lane++) {
            to[k * NR + 2 * lane] = rows[lane * pitch + k];
            to[k * NR + 2 * lane + 1] = rows[(LANES + lane) * pitch + k];
        }
}

// Four rows of four values each: words of a row become words of a column.
inline void transpose_bytes(Bits (&words)[4]) {
    const Bits even[2] = {(words[0] & 0xff00ffu) | (words[1] & 0xff00ffu) << 8,
                          (words[2] & 0xff00ffu) | (words[3] & 0xff00ffu) << 8};
    const Bits odd[2] = {(words[0] >> 8 & 0xff00ffu) | (words[1] & 0xff00ff00u),
                         (words[2] >> 8 & 0xff00ffu) | (words[3] & 0xff00ff00u)};
    words[0] = (even[0] & 0xffffu) | even[1] << 16;
    words[1] = (odd[0] & 0xffffu) | odd[1] << 16;
    words[2] = even[0] >> 16 | (even[1] & 0xffff0000u);
    words[3] = odd[0] >> 16 | (odd[1] & 0xffff0000u);
}

// 8 bits: a word of a panel holds four columns, and half a vector a row.
void pack_rows(const int8_t* rows, int64_t pitch, int64_t count, int8_t* to) {
    constexpr int HALF = LANES / 2;
    int64_t k = 0;
    for (; k + 4 * LANES <= count; k += 4 * LANES) {
        Bits pairs[2][LANES];  // of rows k, k + 1 and k + 2, k + 3 of each word
        for (int i = 0; i < HALF; i++) {
            Bits words[4];
            for (int row = 0; row < 4; row++)
                words[row] = load_words(rows + (4 * i + row) * pitch + k);
            transpose_bytes(words);
            for (int j = 0; j < 4; j++) pairs[j / 2][j % 2 * HALF + i] = words[j];
        }
        for (int j = 0; j < 2; j++) {
            transpose(pairs[j]);
            for (int i = 0; i < LANES; i++) store_words(to + (k + 4 * i + 2 * j) * NR, pairs[j][i]);
        }
    }
    for (; k < count; k++)
        for (int i = 0; i < NR; i++) to[k * NR + i] = rows[i * pitch + k];
}

// Memory of this thread for `count` values.
template <class Value>
Value* values_in(Scratch& scratch, int64_t count) {
    return reinterpret_cast<Value*>(scratch.floats(ceil_div(count * sizeof(Value), sizeof(float))));
}

template <class Value>
void pack_panel(const Weight& weight, const MatrixSource& source, int64_t panel, void* panels) {
    Value* rows = values_in<Value>(thread_scratch().panel_rows, NR * source.columns);
    read_panel(weight, source, panel, rows);
    pack_rows(rows + source.skipped, source.columns, weight.in_features,
              static_cast<Value*>(panels) + panel * weight.in_features * NR);
}

// scales [NR][of_a_row] of the source -> [groups][NR] of the weight, whose groups may be smaller
void pack_scales(const Weight& weight, const MatrixSource& source, int64_t panel,
                 const float* scales, int64_t of_a_row, float* packed) {
    const int64_t groups = group_count(weight), skipped = source.skipped / weight.group;
    float* to = packed + panel * groups * NR;
    for (int64_t g = 0; g < groups; g++) {
        const int64_t from = (skipped + g) * weight.group / source.group;
        for (int i = 0; i < NR; i++) to[g * NR + i] = scales[i * of_a_row + from];
    }
}

void quantize_panel(const Weight& weight, const MatrixSource& source, int64_t panel, void* panels,
                    float* packed_scales) {
    constexpr int64_t AT_ONCE = 16384;  // values: they stay in a core's cache
    const int64_t columns = source.columns, of_a_row = ceil_div(columns, source.group);
    const int64_t rows_at_once = std::clamp<int64_t>(AT_ONCE / columns, 1, LANES);
    int8_t* rows = values_in<int8_t>(thread_scratch().panel_rows, NR * columns);
    float* scales = thread_scratch().values.floats(NR * of_a_row + rows_at_once * columns);
    float* values = scales + NR * of_a_row;
    std::fill(rows, rows + NR * columns, 0);
    std::fill(scales, values, 0.0f);
    for (int v = 0; v < 2; v++) {
        const RowRange range = rows_of_vector(weight, panel, v);
        for (int64_t first = 0; first < range.count; first += rows_at_once) {
            const int64_t count = std::min(rows_at_once, range.count - first);
            read_rows(source, range.first + first, count, values);
            for (int64_t i = 0; i < count; i++) {
                const int64_t row = v * LANES + first + i;
                quantize_row(values + i * columns, columns, source.group, rows + row * columns,
                             scales + row * of_a_row);
            }
        }
    }
    pack_rows(rows + source.skipped, columns, weight.in_features,
              static_cast<int8_t*>(panels) + panel * weight.in_features * NR);
    pack_scales(weight, source, panel, scales, of_a_row, packed_scales);
}

}  // namespace

void pack(const Weight& weight, const MatrixSource& source, void* panels, float* scales) {
    thread_pool()->run(panel_count(weight), [&](int64_t panel) {
        if (weight.bits == 32)
            pack_panel<float>(weight, source, panel, panels);
        else if (weight.bits == 16)
            pack_panel<uint16_t>(weight, source, panel, panels);
        else if (source.group == 0)
            pack_panel<int8_t>(weight, source, panel, panels);
        else
            quantize_panel(weight, source, panel, panels, scales);
    });
}

void pack_floats(const Weight& weight, const float* values, int64_t count, float* packed) {
    const RowSpan span{values, 0, count * int64_t{sizeof(float)}, INT64_MAX, 0};
    const MatrixSource source{&span, 1, count, 0, 0, F32};
    thread_pool()->run(panel_count(weight), [&](int64_t panel) {
        float* rows = values_in<float>(thread_scratch().panel_rows, NR * count);
        read_panel(weight, source, panel, rows);
        pack_rows(rows, count, count, packed + panel * count * NR);
    });
}

}  // namespace glm4v
