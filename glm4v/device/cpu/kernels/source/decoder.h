// The layers of the language model, half by half.
#pragma once

#include "attention.h"
#include "product.h"

namespace glm4v {

// One rank's part of a layer.
struct Layer {
    const float* attention_norm;  // [hidden]
    const float* mlp_norm;        // [hidden]
    Weight qkv;
    Weight out;
    Weight gate_up;
    Weight down;
};

struct Model {
    const Layer* layers;
    int64_t query_heads;
    float eps;
    int32_t adds_residual;  // one rank of a group does
    Rotation rotation;
};

// Halves [first, last) of the layers, 2n the attention of layer n and 2n + 1 its MLP. Each takes
// hidden [rows][hidden] and leaves its result there, what came in added to it if the rank does that.
// `layers_done` grows with every MLP.
void run_sublayers(const Model& model, const Cache& cache, const Step& step, int64_t first,
                int64_t last, float* hidden, int64_t* layers_done);

}  // namespace glm4v
