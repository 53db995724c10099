#include "decoder.h"

#include "scratch.h"

namespace glm4v {
namespace {

void attention_half(const Model& model, const Cache& cache, const Step& step, int64_t layer,
                    float* hidden) {
    const Layer& weights = model.layers[layer];
    float* heads = thread_memory().heads.floats(step.rows * weights.qkv.columns);
    float* attended = thread_memory().attended.floats(step.rows * weights.out.inputs);
    const Norm norm{weights.attention_norm, model.eps};
    product(weights.qkv, &norm, step.rows, hidden, nullptr, heads);
    attend(cache, layer, step, model.rotation, model.query_heads, heads, attended);
    product(weights.out, nullptr, step.rows, attended, model.adds_residual ? hidden : nullptr,
            hidden);
}

void mlp_half(const Model& model, int64_t rows, int64_t layer, float* hidden) {
    const Layer& weights = model.layers[layer];
    float* gated = thread_memory().gated.floats(rows * weights.down.inputs);
    const Norm norm{weights.mlp_norm, model.eps};
    product(weights.gate_up, &norm, rows, hidden, nullptr, gated);
    product(weights.down, nullptr, rows, gated, model.adds_residual ? hidden : nullptr, hidden);
}

}  // namespace

void run_sublayers(const Model& model, const Cache& cache, const Step& step, int64_t first,
                int64_t last, float* hidden, int64_t* layers_done) {
    for (int64_t half = first; half < last; half++) {
        if (half % 2 == 0) {
            attention_half(model, cache, step, half / 2, hidden);
        } else {
            mlp_half(model, step.rows, half / 2, hidden);
            __atomic_fetch_add(layers_done, 1, __ATOMIC_RELAXED);
        }
    }
}

}  // namespace glm4v
