#include "vision.h"

#include <algorithm>
#include <cmath>

#include "attention.h"
#include "scratch.h"
#include "thread_pool.h"

namespace glm4v {
namespace {

constexpr int64_t ROWS_PER_NORM = 8;          // rows that one task normalises
constexpr int64_t ROWS_PER_THREAD = 16 * MR;  // of a strip: what a block of a product takes

// The sum of term(value) over a row.
template <class Term>
float sum_row(const float* values, int64_t width, const Term& term) {
    Vec total[2] = {};
    int64_t k = 0;
    for (; k + NR <= width; k += NR)
        for (int v = 0; v < 2; v++) total[v] += term(load(values + k + v * LANES));
    float sum = reduce_add(total[0] + total[1]);
    for (; k < width; k++) sum += term(broadcast(values[k]))[0];
    return sum;
}

// y = x + norm(values), one row; y may be x.
void add_normalized(const LayerNorm& norm, int64_t width, const float* values, const float* x,
                    float* y) {
    const float count = static_cast<float>(width);
    const float mean = sum_row(values, width, [](Vec value) { return value; }) / count;
    const float variance = sum_row(values, width, [mean](Vec value) {
        const Vec distance = value - mean;
        return distance * distance;
    }) / count;
    const float scale = 1.0f / std::sqrt(variance + norm.eps);
    for (int64_t k = 0; k < width; k++)
        y[k] = x[k] + ((values[k] - mean) * scale * norm.weight[k] + norm.bias[k]);
}

void add_normalized_rows(const LayerNorm& norm, int64_t rows, int64_t width, const float* values,
                         const float* x, float* y) {
    thread_pool()->run(ceil_div(rows, ROWS_PER_NORM), [&](int64_t task) {
        const int64_t end = std::min((task + 1) * ROWS_PER_NORM, rows);
        for (int64_t row = task * ROWS_PER_NORM; row < end; row++)
            add_normalized(norm, width, values + row * width, x + row * width, y + row * width);
    });
}

// What follows attention, for some rows.
void finish_rows(const VisionLayer& layer, int64_t rows, const float* attended, const float* x,
                 float* y) {
    const int64_t width = layer.out.out_features;
    float* inner = thread_scratch().gated.floats(rows * (layer.up.out_features + width));
    float* projected = inner + rows * layer.up.out_features;
    gemm(layer.out, nullptr, rows, attended, nullptr, projected);
    add_normalized_rows(layer.attention_norm, rows, width, projected, x, y);
    gemm(layer.up, nullptr, rows, y, nullptr, inner);
    gemm(layer.down, nullptr, rows, inner, nullptr, projected);
    add_normalized_rows(layer.mlp_norm, rows, width, projected, y, y);
}

}  // namespace

void run_vision_layer(const VisionLayer& layer, int64_t tokens, const float* x, float* y) {
    const int64_t width = layer.out.out_features, attended_width = layer.out.in_features;
    float* qkv = thread_scratch().qkv.floats(tokens * layer.qkv.out_features);
    float* attended = thread_scratch().attended.floats(tokens * attended_width);
    gemm(layer.qkv, nullptr, tokens, x, nullptr, qkv);
    attend_all(tokens, layer.heads, attended_width / layer.heads, qkv, attended);
    // In strips whose activations stay in the caches, and do not take much memory.
    const int64_t strips = ceil_div(tokens, ROWS_PER_THREAD * thread_pool()->size());
    for (int64_t s = 0; s < strips; s++) {
        const int64_t first = tokens * s / strips, rows = tokens * (s + 1) / strips - first;
        finish_rows(layer, rows, attended + first * attended_width, x + first * width,
                    y + first * width);
    }
}

}  // namespace glm4v
