#include "product.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "scratch.h"
#include "team.h"
#include "tile.h"

namespace glm4v {
namespace {

constexpr int64_t K_BLOCK = 256;      // lines of a panel that stay in the first cache
constexpr int64_t TILES_SHARED = 16;  // that use them while they are there
constexpr int64_t FEW_TILES = 2;      // or fewer: memory is what they wait for
constexpr int64_t FEW_BLOCK = 1024;   // lines that stay, with those behind, in the second cache
constexpr int64_t PIECE = 384;        // inputs of a tile laid out at once
constexpr int64_t PANELS_SHARED = 4;  // that use these tiles while they are in the second cache

// How many panels a tile of so many rows is multiplied with at once: their sums are registers.
constexpr int beside(int64_t rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }

// Some lines of a panel, and of those beside it.
struct Strip {
    const char* first;
    int64_t step;  // bytes from a panel to the next
    int64_t count;
    Ahead ahead;
};

// sums [rows][panels][PANEL]; x [count][rows]
using Multiply = void (*)(const float* x, const Strip& strip, float* sums, bool from_zero);

template <class Lines, int ROWS, int PANELS>
void multiply_strip(const float* x, const Strip& strip, float* sums, bool from_zero) {
    if constexpr (PANELS == 1) {
        const auto lines = Lines::of_panel(strip.first, strip.ahead);
        multiply<ROWS, ROWS, 1>(x, lines, strip.count, sums, from_zero);
    } else {
        const Beside<Lines, PANELS> lines{strip.first, strip.step};
        multiply<ROWS, ROWS, 1>(x, lines, strip.count, sums, from_zero);
    }
}

// By rows, for one panel and for as many as there may be.
struct Table {
    std::array<Multiply, MOST_ROWS> one, beside;

    template <class Lines, int... N>
    static constexpr Table of(std::integer_sequence<int, N...>) {
        return {{multiply_strip<Lines, N + 1, 1>...},
                {multiply_strip<Lines, N + 1, glm4v::beside(N + 1)>...}};
    }
};

constexpr auto FLOATS = Table::of<Floats>(std::make_integer_sequence<int, MOST_ROWS>{});
constexpr auto HALVES = Table::of<Halves>(std::make_integer_sequence<int, MOST_ROWS>{});

// Rows in tiles that differ by one at most; tile t is [inputs][rows of it].
struct Tiles {
    int64_t rows;
    int64_t inputs;
    const float* values;

    int64_t count() const { return up(rows, MOST_ROWS); }
    int64_t first(int64_t tile) const { return rows * tile / count(); }
    int64_t size(int64_t tile) const { return first(tile + 1) - first(tile); }
    const float* tile(int64_t tile) const { return values + first(tile) * inputs; }
};

float scale_of(const Norm& norm, const float* row, int64_t inputs) {
    Vec squares[2] = {};
    int64_t k = 0;
    for (; k + PANEL <= inputs; k += PANEL)
        for (int v = 0; v < 2; v++) {
            const Vec value = load(row + k + v * LANES);
            squares[v] += value * value;
        }
    float total = sum(squares[0] + squares[1]);
    for (; k < inputs; k++) total += row[k] * row[k];
    return 1.0f / std::sqrt(total / static_cast<float>(inputs) + norm.eps);
}

// Inputs [first, last) of one tile, normed on the way.
void lay_out(const Norm* norm, const float* scales, const float* x, int64_t rows, int64_t inputs,
             int64_t first, int64_t last, float* tile) {
    for (int64_t r = 0; r < rows; r++) {
        const float* row = x + r * inputs;
        float* to = tile + r;
        if (norm == nullptr)
            for (int64_t k = first; k < last; k++) to[k * rows] = row[k];
        else
            for (int64_t k = first; k < last; k++)
                to[k * rows] = row[k] * scales[r] * norm->weight[k];
    }
}

Tiles lay_out(const Norm* norm, const float* x, int64_t rows, int64_t inputs) {
    Tiles tiles{rows, inputs, x};
    if (rows == 1 && norm == nullptr) return tiles;
    float* values = thread_memory().tiles.floats(rows * inputs + rows);
    float* scales = values + rows * inputs;
    tiles.values = values;
    if (norm != nullptr)
        team()->run(tiles.count(), [&](int64_t t) {
            for (int64_t row = tiles.first(t); row < tiles.first(t + 1); row++)
                scales[row] = scale_of(*norm, x + row * inputs, inputs);
        });
    const int64_t pieces = up(inputs, PIECE);
    team()->run(tiles.count() * pieces, [&](int64_t task) {
        const int64_t t = task / pieces, k = task % pieces * PIECE, first = tiles.first(t);
        lay_out(norm, scales + first, x + first * inputs, tiles.size(t), inputs, k,
                std::min(k + PIECE, inputs), values + first * inputs);
    });
    return tiles;
}

// Of the result: a panel with a gate has half of them.
int64_t columns_of_panel(const Weight& weight) { return weight.then == SILU_GATE ? LANES : PANEL; }

// Where the sums of a tile and a panel go.
struct Target {
    const Weight& weight;
    const float* residual;
    float* y;

    // sums [rows][panels][PANEL], one panel's of them.
    void put(int64_t first_row, int64_t rows, int64_t panel, int64_t panels,
             const float* sums) const {
        const int64_t column = panel * columns_of_panel(weight);
        const int64_t count = std::min(columns_of_panel(weight), weight.columns - column);
        for (int64_t r = 0; r < rows; r++) {
            float values[PANEL];
            finish(sums + r * panels * PANEL, panel, values);
            const int64_t at = (first_row + r) * weight.columns + column;
            if (residual != nullptr)
                for (int64_t i = 0; i < count; i++) y[at + i] = residual[at + i] + values[i];
            else
                std::memcpy(y + at, values, count * sizeof(float));
        }
    }

    void finish(const float* sums, int64_t panel, float* values) const {
        Vec first = load(sums), second = load(sums + LANES);
        if (weight.bias != nullptr) {
            first += load(weight.bias + panel * PANEL);
            second += load(weight.bias + panel * PANEL + LANES);
        }
        if (weight.then == SILU_GATE) {
            first = first / (exponential(-first) + 1.0f) * second;
        } else if (weight.then == GELU) {
            first = gelu(first);
            second = gelu(second);
        }
        store(values, first);
        store(values + LANES, second);
    }
};

int64_t panels_at_once(const Tiles& tiles) {
    return tiles.count() == 1 ? beside(tiles.rows) : 1;
}

// Panels [first_panel, last_panel) for tiles [first_tile, last_tile).
struct Part {
    int64_t first_tile, last_tile, first_panel, last_panel;
};

void do_part(const Weight& weight, const Tiles& tiles, const Part& part, int64_t block,
             const Target& target) {
    const Table& table = weight.bits == 16 ? HALVES : FLOATS;
    const int64_t line_bytes = weight.bits == 16 ? Halves::BYTES : Floats::BYTES;
    const int64_t panel_bytes = weight.inputs * line_bytes;
    const int64_t tile_count = part.last_tile - part.first_tile;
    const int64_t panels = part.last_panel - part.first_panel;
    const int64_t most = panels_at_once(tiles);
    float* all_sums = thread_memory().sums.floats(tile_count * panels * MOST_ROWS * PANEL);
    for (int64_t k = 0; k < weight.inputs; k += block) {
        const int64_t count = std::min(block, weight.inputs - k);
        float* sums = all_sums;
        int64_t at_once = 1;
        for (int64_t p = part.first_panel; p < part.last_panel; p += at_once) {
            at_once = p + most <= part.last_panel ? most : 1;
            const auto& multiply = at_once == 1 ? table.one : table.beside;
            const char* lines =
                static_cast<const char*>(weight.panels) + p * panel_bytes + k * line_bytes;
            for (int64_t t = part.first_tile; t < part.last_tile; t++) {
                const int64_t rows = tiles.size(t);
                // Each tile asks for its share of what comes behind these lines.
                const int64_t share = count * (t - part.first_tile) / tile_count;
                const Ahead ahead{lines + (count + share) * line_bytes, line_bytes / tile_count};
                multiply[rows - 1](tiles.tile(t) + k * rows, {lines, panel_bytes, count, ahead},
                                   sums, k == 0);
                if (k + count == weight.inputs)
                    for (int64_t n = 0; n < at_once; n++)
                        target.put(tiles.first(t), rows, p + n, at_once, sums + n * PANEL);
                sums += at_once * MOST_ROWS * PANEL;
            }
        }
    }
}

// The row of the weight that a lane of a panel's lines is filled from; -1 beyond the last column.
int64_t row_of(const Weight& weight, int64_t panel, int64_t v, int64_t lane) {
    const bool is_gated = weight.then == SILU_GATE;
    const int64_t column = panel * columns_of_panel(weight) + lane + (is_gated ? 0 : v * LANES);
    if (column >= weight.columns) return -1;
    return column + (is_gated ? v * weight.columns : 0);
}

using Rows = std::array<const float*, PANEL>;

Rows rows_of(const Weight& weight, const float* values, int64_t panel, const float* none) {
    Rows rows;
    for (int64_t v = 0; v < 2; v++)
        for (int64_t lane = 0; lane < LANES; lane++) {
            const int64_t row = row_of(weight, panel, v, lane);
            rows[v * LANES + lane] = row < 0 ? none : values + row * weight.inputs;
        }
    return rows;
}

uint16_t upper_half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits >> 16;
}

void pack_panel(const Weight& weight, const Rows& rows, int64_t panel, void* panels) {
    const int64_t first = panel * weight.inputs * PANEL;
    if (weight.bits == 16) {
        uint16_t* line = static_cast<uint16_t*>(panels) + first;
        for (int64_t k = 0; k < weight.inputs; k++, line += PANEL)
            for (int lane = 0; lane < LANES; lane++) {
                line[2 * lane] = upper_half(rows[lane][k]);
                line[2 * lane + 1] = upper_half(rows[LANES + lane][k]);
            }
    } else {
        float* line = static_cast<float*>(panels) + first;
        for (int64_t k = 0; k < weight.inputs; k++, line += PANEL)
            for (int i = 0; i < PANEL; i++) line[i] = rows[i][k];
    }
}

}  // namespace

int64_t panel_count(const Weight& weight) { return up(weight.columns, columns_of_panel(weight)); }

void pack(const Weight& weight, const float* values, void* panels) {
    const std::vector<float> none(weight.inputs, 0.0f);
    team()->run(panel_count(weight), [&](int64_t panel) {
        pack_panel(weight, rows_of(weight, values, panel, none.data()), panel, panels);
    });
}

void pack_bias(const Weight& weight, const float* bias, float* packed) {
    for (int64_t panel = 0; panel < panel_count(weight); panel++)
        for (int64_t v = 0; v < 2; v++)
            for (int64_t lane = 0; lane < LANES; lane++) {
                const int64_t row = row_of(weight, panel, v, lane);
                *packed++ = row < 0 ? 0.0f : bias[row];
            }
}

void product(const Weight& weight, const Norm* norm, int64_t rows, const float* x,
             const float* residual, float* y) {
    if (rows == 0) return;
    const Tiles tiles = lay_out(norm, x, rows, weight.inputs);
    const Target target{weight, residual, y};
    const int64_t panels = panel_count(weight);
    const bool is_few = tiles.count() <= FEW_TILES;
    const int64_t shared = is_few ? panels_at_once(tiles) : PANELS_SHARED;
    const int64_t block = is_few ? FEW_BLOCK : K_BLOCK;
    const int64_t across = up(panels, shared), down = up(tiles.count(), TILES_SHARED);
    team()->run(across * down, [&](int64_t task) {
        const int64_t group = task / across, column = task % across * shared;
        const Part part{tiles.count() * group / down, tiles.count() * (group + 1) / down, column,
                        std::min(column + shared, panels)};
        do_part(weight, tiles, part, block, target);
    });
}

}  // namespace glm4v
