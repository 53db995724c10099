// Attention of a step's tokens to the paged KV cache of their sequences.
#pragma once

#include "vectors.h"

namespace glm4v {

// The keys of LANES slots are interleaved, so that one vector holds a dimension of all of them:
//   keys    [layer][kv_head][slot / LANES][head_dim][LANES]
//   values  [layer][kv_head][slot][value_stride], head_dim rounded up to a multiple of NR
struct KvCache {
    float* keys;
    float* values;
    int64_t slots;  // a multiple of LANES
    int64_t kv_heads;
    int64_t head_dim;
    int64_t value_stride;

    float* key_group(int64_t layer, int64_t kv_head, int64_t slot) const {
        const int64_t first = (layer * kv_heads + kv_head) * slots + slot / LANES * LANES;
        return keys + first * head_dim;
    }
    float* value_row(int64_t layer, int64_t kv_head, int64_t slot) const {
        return values + ((layer * kv_heads + kv_head) * slots + slot) * value_stride;
    }
};

// The tokens of one sequence in a step.
struct Segment {
    int64_t query_len;
    int64_t context_len;   // tokens in the cache before the step
    int64_t table_offset;  // of its block table in `block_tables`
};

struct AttentionMetadata {
    int64_t num_tokens;
    int64_t block_size;
    int64_t num_segments;
    const Segment* segments;
    const int64_t* block_tables;
    const int64_t* positions;  // [num_tokens], rotary
};

// Which tokens of its segment a token attends to.
enum class MaskKind { CAUSAL, FULL };

// Rotary cosines and sines of every position, [positions][pairs] each; no rotation with 0 pairs.
struct RotaryTable {
    const float* cosine;
    const float* sine;
    int64_t pairs;
};

// qkv [tokens][query_heads + 2 kv_heads][head_dim] -> attended [tokens][query_heads][head_dim].
// Rotates queries and keys in place, and writes keys and values to the cache.
void attend(const KvCache& cache, int64_t layer, const AttentionMetadata& metadata,
            const RotaryTable& rotary, int64_t query_heads, float* qkv, float* attended);

// Attention of every token to every token, with as many kv heads as query heads:
// qkv [tokens][3 * heads][head_dim] -> attended [tokens][heads][head_dim].
void attend_all(int64_t tokens, int64_t heads, int64_t head_dim, float* qkv, float* attended);

}  // namespace glm4v
