#include <array>
#include <cstring>
#include <vector>

#include "gemm.h"
#include "thread_pool.h"

namespace glm4v {
namespace {

// The row of the weight that a lane of a panel is filled from; -1 beyond the last column.
int64_t weight_row(const Weight& weight, int64_t panel, int64_t v, int64_t lane) {
    const bool is_gated = weight.epilogue == SILU_GATE;
    const int64_t column = panel * columns_of_panel(weight) + lane + (is_gated ? 0 : v * LANES);
    if (column >= weight.out_features) return -1;
    return column + (is_gated ? v * weight.out_features : 0);
}

// The rows [count] of a panel's columns.
template <class Value>
using PanelRows = std::array<const Value*, NR>;

template <class Value>
PanelRows<Value> panel_rows(const Weight& weight, const Value* values, int64_t count, int64_t panel,
                            const Value* zeros) {
    PanelRows<Value> rows;
    for (int64_t v = 0; v < 2; v++)
        for (int64_t lane = 0; lane < LANES; lane++) {
            const int64_t row = weight_row(weight, panel, v, lane);
            rows[v * LANES + lane] = row < 0 ? zeros : values + row * count;
        }
    return rows;
}

uint16_t upper_half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits >> 16;
}

// to [count][NR], the two vectors of a row in words.
void pack_halves(const PanelRows<float>& rows, int64_t count, uint16_t* to) {
    for (int64_t k = 0; k < count; k++, to += NR)
        for (int lane = 0; lane < LANES; lane++) {
            to[2 * lane] = upper_half(rows[lane][k]);
            to[2 * lane + 1] = upper_half(rows[LANES + lane][k]);
        }
}

// to [count][NR]
template <class Value>
void pack_values(const PanelRows<Value>& rows, int64_t count, Value* to) {
    for (int64_t k = 0; k < count; k++, to += NR)
        for (int i = 0; i < NR; i++) to[i] = rows[i][k];
}

// Calls write(rows, panel) for all panels of values [rows][count], in parallel.
template <class Value, class Write>
void for_panels(const Weight& weight, const void* values, int64_t count, const Write& write) {
    const std::vector<Value> zeros(count);
    const Value* first = static_cast<const Value*>(values);
    thread_pool()->run(panel_count(weight), [&](int64_t panel) {
        write(panel_rows(weight, first, count, panel, zeros.data()), panel * count * NR);
    });
}

}  // namespace

void pack(const Weight& weight, const void* values, void* panels) {
    const int64_t count = weight.in_features;
    if (weight.bits == 8)
        for_panels<int8_t>(weight, values, count, [&](const auto& rows, int64_t at) {
            pack_values(rows, count, static_cast<int8_t*>(panels) + at);
        });
    else if (weight.bits == 16)
        for_panels<float>(weight, values, count, [&](const auto& rows, int64_t at) {
            pack_halves(rows, count, static_cast<uint16_t*>(panels) + at);
        });
    else
        pack_floats(weight, static_cast<const float*>(values), count, static_cast<float*>(panels));
}

void pack_floats(const Weight& weight, const float* values, int64_t count, float* packed) {
    for_panels<float>(weight, values, count, [&](const auto& rows, int64_t at) {
        pack_values(rows, count, packed + at);
    });
}

}  // namespace glm4v
