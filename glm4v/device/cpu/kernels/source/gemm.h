// Matrix products with a fixed weight: y = x W', and what follows it.
#pragma once

#include <cstdint>

namespace glm4v {

// The function applied to a product before it is stored.
enum Epilogue : int32_t { NONE, GELU, SILU_GATE };

// A weight [out_features, in_features], packed into panels of NR columns, each [in_features][NR].
//
// A panel row is two vectors. With 16 bits, one vector of 32-bit words holds both: the low half of
// a word is a bfloat16 of the first vector, the high half one of the second.
// With a gate, the first vectors are columns of the gate, the second ones the columns it scales.
struct Weight {
    int64_t out_features;
    int64_t in_features;
    const void* panels;
    const float* bias;  // [panels][NR], or null
    int32_t bits;       // 16 or 32
    int32_t epilogue;   // an Epilogue
};

// The RMS norm in front of a product.
struct Norm {
    const float* weight;  // [in_features]
    float eps;
};

int64_t panel_count(const Weight& weight);

// values [out_features, in_features], or [2 * out_features, in_features] gate first -> panels. With
// 16 bits, values must be rounded to bfloat16 already.
void pack(const Weight& weight, const float* values, void* panels);

// bias [out_features], or [2 * out_features] -> [panels][NR].
void pack_bias(const Weight& weight, const float* bias, float* packed);

// y = epilogue(x W' + bias), silu(gate) * up with a gate; `residual` is added unless null, and may
// be y. x [rows, in_features], y and residual [rows, out_features].
void gemm(const Weight& weight, const Norm* norm, int64_t rows, const float* x,
          const float* residual, float* y);

}  // namespace glm4v
