// The decoder layers of the language model, in sublayers: attention and MLP.
#pragma once

#include "attention.h"
#include "gemm.h"

namespace glm4v {

// One rank's part of a layer.
struct DecoderLayer {
    const float* attention_norm;  // [hidden]
    const float* mlp_norm;        // [hidden]
    Weight qkv;
    Weight out;
    Weight gate_up;
    Weight down;
};

struct DecoderModel {
    const DecoderLayer* layers;
    int64_t query_heads;
    float norm_eps;
    int32_t adds_residual;  // true on one rank of a group
    RotaryTable rotary;
};

// Runs the sublayers [first, last): 2n is the attention of layer n, 2n + 1 its MLP. Each replaces
// hidden [tokens][hidden] by its result, plus its input on the rank that adds the residual.
// `layers_done` grows by one with every MLP.
void run_sublayers(const DecoderModel& model, const KvCache& cache,
                   const AttentionMetadata& metadata, int64_t first, int64_t last, float* hidden,
                   int64_t* layers_done);

}  // namespace glm4v
