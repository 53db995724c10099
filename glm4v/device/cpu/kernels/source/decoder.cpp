#include "decoder.h"

#include "scratch.h"

namespace glm4v {
namespace {

void attention_sublayer(const DecoderModel& model, const KvCache& cache,
                        const AttentionMetadata& metadata, int64_t layer, float* hidden) {
    const DecoderLayer& weights = model.layers[layer];
    const int64_t tokens = metadata.num_tokens;
    float* qkv = thread_scratch().qkv.floats(tokens * weights.qkv.out_features);
    float* attended = thread_scratch().attended.floats(tokens * weights.out.in_features);
    const Norm norm{weights.attention_norm, model.norm_eps};
    gemm(weights.qkv, &norm, tokens, hidden, nullptr, qkv);
    attend(cache, layer, metadata, model.rotary, model.query_heads, qkv, attended);
    gemm(weights.out, nullptr, tokens, attended, model.adds_residual ? hidden : nullptr, hidden);
}

void mlp_sublayer(const DecoderModel& model, int64_t tokens, int64_t layer, float* hidden) {
    const DecoderLayer& weights = model.layers[layer];
    float* gated = thread_scratch().gated.floats(tokens * weights.down.in_features);
    const Norm norm{weights.mlp_norm, model.norm_eps};
    gemm(weights.gate_up, &norm, tokens, hidden, nullptr, gated);
    gemm(weights.down, nullptr, tokens, gated, model.adds_residual ? hidden : nullptr, hidden);
}

}  // namespace

void run_sublayers(const DecoderModel& model, const KvCache& cache,
                   const AttentionMetadata& metadata, int64_t first, int64_t last, float* hidden,
                   int64_t* layers_done) {
    for (int64_t sublayer = first; sublayer < last; sublayer++) {
        if (sublayer % 2 == 0) {
            attention_sublayer(model, cache, metadata, sublayer / 2, hidden);
        } else {
            mlp_sublayer(model, metadata.num_tokens, sublayer / 2, hidden);
            __atomic_fetch_add(layers_done, 1, __ATOMIC_RELAXED);
        }
    }
}

}  // namespace glm4v
