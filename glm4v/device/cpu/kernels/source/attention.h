// Attention of a step's rows to the paged cache of their sequences.
#pragma once

#include "vectors.h"

namespace glm4v {

// Keys of LANES slots lie together, so that one vector holds a dimension of all of them:
//   keys    [layer][kv_head][slot / LANES][head_dim][LANES]
//   values  [layer][kv_head][slot][width], width being head_dim filled up to whole panels
struct Cache {
    float* keys;
    float* values;
    int64_t slots;  // a multiple of LANES
    int64_t kv_heads;
    int64_t head_dim;
    int64_t width;

    float* key_group(int64_t layer, int64_t kv_head, int64_t slot) const {
        const int64_t place = (layer * kv_heads + kv_head) * slots + slot / LANES * LANES;
        return keys + place * head_dim;
    }
    float* value_row(int64_t layer, int64_t kv_head, int64_t slot) const {
        return values + ((layer * kv_heads + kv_head) * slots + slot) * width;
    }
};

// Rows of one sequence in a step, and where its cache blocks begin in the step's list of them.
struct Segment {
    int64_t rows;
    int64_t context_len;  // rows in the cache before
    int64_t first_block;
};

struct Step {
    int64_t rows;
    int64_t block_size;
    int64_t segment_count;
    const Segment* segments;
    const int64_t* blocks;
    const int64_t* positions;  // [rows] of the rotation
};

// How many rows of its segment a row sees.
enum class Sight { UP_TO_ITSELF, ALL };

// Angles of every position, [positions][pairs] each; no pairs, no rotation.
struct Rotation {
    const float* cosine;
    const float* sine;
    int64_t pairs;
};

// heads [rows][query heads + 2 kv heads][head_dim]: queries and keys are rotated in place, keys and
// values go into the cache, and attended [rows][query heads][head_dim] comes out.
void attend(const Cache& cache, int64_t layer, const Step& step, const Rotation& rotation,
            int64_t query_heads, float* heads, float* attended);


// Attention of every row to every row, for as many heads of keys as of queries:
// heads [rows][3 * count][head_dim], queries, keys, values -> attended [rows][count][head_dim].
void attend_all(int64_t rows, int64_t count, int64_t head_dim, float* heads, float* attended);

}  // namespace glm4v
