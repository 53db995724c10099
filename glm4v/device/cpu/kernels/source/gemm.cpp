#include "gemm.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>
#include <utility>

#include "micro_kernel.h"
#include "scratch.h"
#include "thread_pool.h"
#include "transpose.h"

namespace glm4v {
namespace {

constexpr int64_t KC = 256;          // panel rows that stay in the first-level cache
constexpr int64_t MC_TILES = 16;     // tiles that use them while they are there
constexpr int64_t FEW_TILES = 2;     // or fewer: memory bandwidth is the limit
constexpr int64_t KC_FEW = 1024;     // panel rows that stay in the second-level cache, prefetched
                                     // ones included
constexpr int64_t PACK_K = 384;      // k of a tile that one task packs
constexpr int64_t NC_PANELS = 4;     // panels that use a tile while it is in the second-level cache

// Panels that a tile of so many rows is multiplied with at once: the accumulators are registers.
constexpr int panels_per_call(int64_t rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }

// Some rows of a panel, and of the panels after it.
struct PanelSlice {
    const char* first;
    int64_t panel_bytes;
    int64_t count;
    Prefetch prefetch;
    // With 8 bits: the scales of the first group, how many a panel has, and the rows of each group.
    const float* scales;
    int64_t panel_scales;
    int64_t first_group, group;
    float* widened;  // with 8 bits and many tiles: the rows as float32, written by the first tile
};

// acc [rows][panels][NR]; a [count][rows]
using Multiply = void (*)(const float* a, const PanelSlice& slice, float* acc, bool from_zero);

template <class Panel, int ROWS, int PANELS>
void multiply_slice(const float* a, const PanelSlice& slice, float* acc, bool from_zero) {
    if constexpr (PANELS == 1) {
        const auto panel = Panel::of(slice.first, slice.prefetch);
        micro_kernel<ROWS, ROWS, 1>(a, panel, slice.count, acc, from_zero);
    } else {
        const PanelGroup<Panel, PANELS> group{slice.first, slice.panel_bytes};
        micro_kernel<ROWS, ROWS, 1>(a, group, slice.count, acc, from_zero);
    }
}

// Rows of 8 bits from row k on.
template <class Panel>
Panel panel_at(const PanelSlice& slice, int64_t k) {
    const Prefetch prefetch = slice.prefetch.after(k);
    const auto* bytes = reinterpret_cast<const int8_t*>(slice.first) + k * NR;
    if constexpr (std::is_same_v<Panel, I8Panel>)
        return {bytes, prefetch};
    else if constexpr (std::is_same_v<Panel, WideningPanel>)
        return {bytes, slice.widened + k * NR, prefetch};
    else
        return {slice.widened + k * NR, prefetch};
}

// The same with 8 bits: each group's sum is scaled.
template <class Panel, int ROWS, int PANELS>
void multiply_groups(const float* a, const PanelSlice& slice, float* acc, bool from_zero) {
    if (from_zero) std::memset(acc, 0, ROWS * PANELS * NR * sizeof(float));
    const float* scales = slice.scales;
    int64_t count = std::min(slice.first_group, slice.count);
    for (int64_t k = 0; k < slice.count; k += count, count = std::min(slice.group, slice.count - k)) {
        Vec scale[2 * PANELS];
        for (int v = 0; v < 2 * PANELS; v++)
            scale[v] = load(scales + v / 2 * slice.panel_scales + v % 2 * LANES);
        if constexpr (PANELS == 1) {
            const auto panel = panel_at<Panel>(slice, k);
            group_kernel<ROWS, ROWS, 1>(a + k * ROWS, panel, count, scale, acc);
        } else {
            const PanelGroup<Panel, PANELS> group{slice.first + k * NR, slice.panel_bytes};
            group_kernel<ROWS, ROWS, 1>(a + k * ROWS, group, count, scale, acc);
        }
        scales += NR;
    }
}

// Micro-kernels by number of rows: for one panel, for the first of many tiles that use it, and for
// a group of panels.
struct KernelTable {
    std::array<Multiply, MR> one, first, group;

    template <class Panel, int... N>
    static constexpr KernelTable of(std::integer_sequence<int, N...>) {
        return {{multiply_slice<Panel, N + 1, 1>...},
                {multiply_slice<Panel, N + 1, 1>...},
                {multiply_slice<Panel, N + 1, panels_per_call(N + 1)>...}};
    }

    template <int... N>
    static constexpr KernelTable of_groups(std::integer_sequence<int, N...>) {
        return {{multiply_groups<I8Panel, N + 1, 1>...},
                {multiply_groups<I8Panel, N + 1, 1>...},
                {multiply_groups<I8Panel, N + 1, panels_per_call(N + 1)>...}};
    }

    template <int... N>
    static constexpr KernelTable of_widened(std::integer_sequence<int, N...>) {
        return {{multiply_groups<WidenedPanel, N + 1, 1>...},
                {multiply_groups<WideningPanel, N + 1, 1>...},
                {}};
    }
};

using Rows = std::make_integer_sequence<int, MR>;
constexpr auto F32_KERNELS = KernelTable::of<F32Panel>(Rows{});
constexpr auto BF16_KERNELS = KernelTable::of<Bf16Panel>(Rows{});
constexpr auto I8_KERNELS = KernelTable::of_groups(Rows{});
constexpr auto WIDENED_KERNELS = KernelTable::of_widened(Rows{});

// How the panels of a weight lie in memory, and what multiplies them.
struct Form {
    const KernelTable& kernels;
    int64_t row_bytes;
    bool is_widened;  // 8 bits: for many tiles, each slice is widened once
};

Form form_of(const Weight& weight, bool is_few) {
    if (weight.bits == 32) return {F32_KERNELS, F32Panel::BYTES, false};
    if (weight.bits == 16) return {BF16_KERNELS, Bf16Panel::BYTES, false};
    return {is_few ? I8_KERNELS : WIDENED_KERNELS, I8Panel::BYTES, !is_few};
}

// The rows of x in tiles whose sizes differ by one at most; tile t is [in_features][rows of it].
struct PackedA {
    int64_t rows;
    int64_t in_features;
    const float* values;

    int64_t count() const { return ceil_div(rows, MR); }
    int64_t first(int64_t tile) const { return rows * tile / count(); }
    int64_t size(int64_t tile) const { return first(tile + 1) - first(tile); }
    const float* tile(int64_t tile) const { return values + first(tile) * in_features; }
};

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

// Packs the columns [first, last) of one tile, applying the norm: squares at a time, whose rows are
// stored as whole vectors while what they spill over is written later.
void pack_tile(const Norm* norm, const float* scales, const float* x, int64_t rows,
               int64_t in_features, int64_t first, int64_t last, float* tile) {
    const int64_t whole = ceil_div(rows, LANES) * LANES;
    int64_t k = first;
    for (; (last - k - LANES) * rows + rows >= whole; k += LANES) {
        Bits squares[ceil_div(MR, LANES)][LANES] = {};
        for (int64_t first_row = 0; first_row < rows; first_row += LANES) {
            auto& square = squares[first_row / LANES];
            const int64_t here = std::min<int64_t>(rows - first_row, LANES);
            for (int64_t r = 0; r < here; r++) {
                Vec values = load(x + (first_row + r) * in_features + k);
                if (norm != nullptr) values = values * scales[first_row + r] * load(norm->weight + k);
                square[r] = bit_cast<Bits>(values);
            }
            transpose(square);
        }
        for (int64_t i = 0; i < LANES; i++)
            for (int64_t r = 0; r < rows; r += LANES)
                store(tile + (k + i) * rows + r, to_vec(squares[r / LANES][i]));
    }
    for (; k < last; k++)
        for (int64_t r = 0; r < rows; r++) {
            const float value = x[r * in_features + k];
            tile[k * rows + r] = norm == nullptr ? value : value * scales[r] * norm->weight[k];
        }
}

PackedA pack_a(const Norm* norm, const float* x, int64_t rows, int64_t in_features) {
    PackedA packed{rows, in_features, x};
    if (rows == 1 && norm == nullptr) return packed;
    float* values = thread_scratch().packed_a.floats(rows * in_features + rows);
    float* scales = values + rows * in_features;
    packed.values = values;
    if (norm != nullptr)
        thread_pool()->run(packed.count(), [&](int64_t t) {
            for (int64_t row = packed.first(t); row < packed.first(t + 1); row++)
                scales[row] = rms_scale(*norm, x + row * in_features, in_features);
        });
    const int64_t pieces = ceil_div(in_features, PACK_K);
    thread_pool()->run(packed.count() * pieces, [&](int64_t task) {
        const int64_t t = task / pieces, k = task % pieces * PACK_K, first = packed.first(t);
        pack_tile(norm, scales + first, x + first * in_features, packed.size(t), in_features, k,
                  std::min(k + PACK_K, in_features), values + first * in_features);
    });
    return packed;
}

// Where the accumulators of a tile and a panel are stored.
struct Output {
    const Weight& weight;
    const float* residual;
    float* y;

    // acc [rows][panels][NR], of which one panel is stored.
    void store_panel(int64_t first_row, int64_t rows, int64_t panel, int64_t panels,
                     const float* acc) const {
        const int64_t columns = columns_of_panel(weight), column = panel * columns;
        const int64_t count = std::min(columns, weight.out_features - column);
        for (int64_t r = 0; r < rows; r++) {
            Vec values[2];
            apply_epilogue(acc + r * panels * NR, panel, values);
            const int64_t at = (first_row + r) * weight.out_features + column;
            if (count == columns)
                for (int64_t i = 0; i < columns; i += LANES)
                    store_vector(at + i, values[i / LANES]);
            else
                store_some(at, count, values);
        }
    }

    void store_vector(int64_t at, Vec value) const {
        store(y + at, residual == nullptr ? value : load(residual + at) + value);
    }

    void store_some(int64_t at, int64_t count, const Vec* values) const {
        float single[NR];
        store(single, values[0]);
        store(single + LANES, values[1]);
        for (int64_t i = 0; i < count; i++)
            y[at + i] = residual == nullptr ? single[i] : residual[at + i] + single[i];
    }

    void apply_epilogue(const float* acc, int64_t panel, Vec* values) const {
        Vec first = load(acc), second = load(acc + LANES);
        if (weight.bias != nullptr) {
            first += load(weight.bias + panel * NR);
            second += load(weight.bias + panel * NR + LANES);
        }
        if (weight.epilogue == SILU_GATE) {
            first = first / (exponential(-first) + 1.0f) * second;
        } else if (weight.epilogue == GELU) {
            first = gelu(first);
            second = gelu(second);
        }
        values[0] = first;
        values[1] = second;
    }
};

int64_t group_size(const PackedA& a) { return a.count() == 1 ? panels_per_call(a.rows) : 1; }

// Panels [first_panel, last_panel) for tiles [first_tile, last_tile).
struct Block {
    int64_t first_tile, last_tile, first_panel, last_panel;
};

// Panel rows of a slice that starts at k: at most kc, and with 8 bits up to the end of a group.
int64_t slice_rows(const Weight& weight, int64_t k, int64_t kc) {
    const int64_t into_group = weight.bits == 8 ? (weight.lead + k) % weight.group : 0;
    return std::min(kc - into_group, weight.in_features - k);
}

PanelSlice slice_of(const Weight& weight, const Form& form, int64_t panel, int64_t k,
                    int64_t count) {
    const int64_t panel_bytes = weight.in_features * form.row_bytes;
    const char* first =
        static_cast<const char*>(weight.panels) + panel * panel_bytes + k * form.row_bytes;
    PanelSlice slice{first, panel_bytes, count, {}, nullptr, 0, 0, 0, nullptr};
    if (weight.bits == 8) {
        slice.panel_scales = group_count(weight) * NR;
        slice.scales = weight.scales + panel * slice.panel_scales +
                       (weight.lead + k) / weight.group * NR;
        slice.first_group = weight.group - (weight.lead + k) % weight.group;
        slice.group = weight.group;
    }
    return slice;
}

void compute_block(const Weight& weight, const PackedA& a, const Block& block, bool is_few,
                   const Output& output) {
    const Form form = form_of(weight, is_few);
    const int64_t kc = is_few ? KC_FEW : KC;
    const int64_t tile_count = block.last_tile - block.first_tile;
    const int64_t panels = block.last_panel - block.first_panel;
    const int64_t group = group_size(a);
    float* all_acc = thread_scratch().acc.floats(tile_count * panels * MR * NR);
    int64_t count = 0;
    for (int64_t k = 0; k < weight.in_features; k += count) {
        count = slice_rows(weight, k, kc);
        float* acc = all_acc;
        int64_t at_once = 1;
        for (int64_t p = block.first_panel; p < block.last_panel; p += at_once) {
            at_once = p + group <= block.last_panel ? group : 1;
            PanelSlice slice = slice_of(weight, form, p, k, count);
            if (form.is_widened) slice.widened = thread_scratch().widened.floats(KC * NR);
            const char* after = slice.first + count * form.row_bytes;
            for (int64_t t = block.first_tile; t < block.last_tile; t++) {
                const int64_t rows = a.size(t);
                const auto& multiply = at_once > 1               ? form.kernels.group
                                       : t == block.first_tile ? form.kernels.first
                                                               : form.kernels.one;
                // Each tile prefetches its share of what follows this slice.
                const int64_t share = count * (t - block.first_tile) / tile_count;
                slice.prefetch = {after + share * form.row_bytes, form.row_bytes / tile_count};
                multiply[rows - 1](a.tile(t) + k * rows, slice, acc, k == 0);
                if (k + count == weight.in_features)
                    for (int64_t n = 0; n < at_once; n++)
                        output.store_panel(a.first(t), rows, p + n, at_once, acc + n * NR);
                acc += at_once * MR * NR;
            }
        }
    }
}

}  // namespace

void gemm(const Weight& weight, const Norm* norm, int64_t rows, const float* x,
          const float* residual, float* y) {
    if (rows == 0) return;
    const PackedA a = pack_a(norm, x, rows, weight.in_features);
    const Output output{weight, residual, y};
    const int64_t panels = panel_count(weight);
    const bool is_few = a.count() <= FEW_TILES;
    const int64_t nc = is_few ? group_size(a) : NC_PANELS;
    const int64_t across = ceil_div(panels, nc), down = ceil_div(a.count(), MC_TILES);
    thread_pool()->run(across * down, [&](int64_t task) {
        const int64_t group = task / across, column = task % across * nc;
        const Block block{a.count() * group / down, a.count() * (group + 1) / down, column,
                          std::min(column + nc, panels)};
        compute_block(weight, a, block, is_few, output);
    });
}

}  // namespace glm4v
