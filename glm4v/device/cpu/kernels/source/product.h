// Products of rows with a fixed weight.
#pragma once

#include <cstdint>

namespace glm4v {

// What becomes of a product before it is stored.
enum Then : int32_t { NOTHING, GELU, SILU_GATE };

// A weight [columns, inputs] as it is kept: panels of PANEL columns, each [inputs][PANEL].
//
// Two vectors make a line of a panel. With 16 bits, one vector of words holds both: the low half of
// a word is a value of the first, the high half one of the second, bfloat16 each.
// With a gate, the first vectors are columns of the gate, the second ones those of what it gates.
struct Weight {
    int64_t columns;  // of the result
    int64_t inputs;
    const void* panels;
    const float* bias;  // [panels][PANEL], or null
    int32_t bits;       // 16 or 32
    int32_t then;       // a Then
};

// Scales of a root-mean-square norm in front of a product.
struct Norm {
    const float* weight;  // [inputs]
    float eps;
};

int64_t panel_count(const Weight& weight);

// values [columns, inputs], or [2 * columns, inputs] gates first -> panels. With 16 bits, values are
// rounded to bfloat16 already.
void pack(const Weight& weight, const float* values, void* panels);

// bias [columns], or [2 * columns] -> [panels][PANEL].
void pack_bias(const Weight& weight, const float* bias, float* packed);

// y = then(x W' + bias), silu(gate) * up with a gate; with `residual`, that is added: it may be y.
// x [rows, inputs], y and residual [rows, columns].
void product(const Weight& weight, const Norm* norm, int64_t rows, const float* x,
             const float* residual, float* y);

}  // namespace glm4v
