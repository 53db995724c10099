// The layers of the vision tower.
#pragma once

#include "gemm.h"

namespace glm4v {

// A layer norm, with mean and variance.
struct LayerNorm {
    const float* weight;  // [width]
    const float* bias;    // [width]
    float eps;
};

// Attention of all tokens to each other and an MLP, each normalised before the residual is added.
struct VisionLayer {
    LayerNorm attention_norm;
    LayerNorm mlp_norm;
    Weight qkv;
    Weight out;
    Weight up;  // with its activation
    Weight down;
    int64_t heads;
};

// x [tokens][width] -> y [tokens][width].
void run_vision_layer(const VisionLayer& layer, int64_t tokens, const float* x, float* y);

}  // namespace glm4v
