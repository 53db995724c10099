// Matrix products with a fixed weight: y = x W', and what follows it.
#pragma once

#include <cstdint>

#include "matrix_source.h"
#include "scratch.h"
#include "vectors.h"

namespace glm4v {

// The function applied to a product before it is stored.
enum Epilogue : int32_t { NONE, GELU, SILU_GATE };

// A weight [out_features, in_features], packed into panels of NR columns, each [in_features][NR].
//
// A panel row is two vectors. With 16 bits, one vector of 32-bit words holds both: the low half of
// a word is a bfloat16 of the first vector, the high half one of the second.
// With 8 bits, a value is an integer times the scale of its column and group of inputs.
// With a gate, the first vectors are columns of the gate, the second ones the columns it scales.
struct Weight {
    int64_t out_features;
    int64_t in_features;
    const void* panels;
    const float* bias;    // [panels][NR], or null
    const float* scales;  // [panels][groups][NR] with 8 bits, else null
    int64_t group;        // inputs that share a scale: a divisor of 256
    int64_t lead;         // inputs of the first group in front of this weight: a part of a whole one
    int32_t bits;         // 8, 16 or 32
    int32_t epilogue;     // an Epilogue
};

// The RMS norm in front of a product.
struct Norm {
    const float* weight;  // [in_features]
    float eps;
};

// Columns of the result in a panel: half of them with a gate.
inline int64_t columns_of_panel(const Weight& weight) {
    return weight.epilogue == SILU_GATE ? LANES : NR;
}

inline int64_t panel_count(const Weight& weight) {
    return ceil_div(weight.out_features, columns_of_panel(weight));
}

// Groups of inputs of a weight of 8 bits.
inline int64_t group_count(const Weight& weight) {
    return ceil_div(weight.lead + weight.in_features, weight.group);
}

// Fills the panels, and the scales if it quantizes: those of source.group inputs, which has to be a
// multiple of weight.group. The source has the rows [out_features], or [2 * out_features] gate first;
// 8 bits are quantized from other numbers, or integers that have scales. Throws ReadError, NotFinite.
void pack(const Weight& weight, const MatrixSource& source, void* panels, float* scales);

// Values of each row, [out_features, count] or [2 * out_features, count]: its bias (one) or the scales
// of integers -> [panels][count][NR].
void pack_floats(const Weight& weight, const float* values, int64_t count, float* packed);

// y = epilogue(x W' + bias), silu(gate) * up with a gate; `residual` is added unless null, and may
// be y. x [rows, in_features], y and residual [rows, out_features].
void gemm(const Weight& weight, const Norm* norm, int64_t rows, const float* x,
          const float* residual, float* y);

}  // namespace glm4v
