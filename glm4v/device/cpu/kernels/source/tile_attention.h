// Attention of a few query vectors that share the keys and values they attend to.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention.h"
#include "micro_kernel.h"
#include "scratch.h"
#include "transpose.h"

namespace glm4v {

// Context tokens whose scores are held at once. The sums of a token are split at multiples of this
// whatever else is in the batch, so that its result does not depend on the batch.
constexpr int64_t CHUNK = 512;
// From row to row of the scores: a power of two would map them to the same cache sets.
constexpr int64_t SCORE_STRIDE = CHUNK + LANES;
constexpr float LOG2_E = 1.44269504f;
constexpr float MINUS_INFINITY = -std::numeric_limits<float>::infinity();

// The arguments of one call.
struct Call {
    const KvCache& cache;
    int64_t layer;
    const AttentionMetadata& metadata;
    const RotaryTable& rotary;
    int64_t query_heads;
    float* qkv;
    float* attended;
    MaskKind mask;

    int64_t group() const { return query_heads / cache.kv_heads; }  // query heads of a kv head
    float* token(int64_t token) const {
        return qkv + token * (query_heads + 2 * cache.kv_heads) * cache.head_dim;
    }
    const float* key(int64_t at) const { return token(at) + query_heads * cache.head_dim; }
    const float* value(int64_t at) const { return key(at) + cache.kv_heads * cache.head_dim; }
};

// Query vectors [first, first + count) of a segment that share a kv head. Vector v is head
// v % group of token v / group: one tile holds the heads of a decode or the tokens of a prefill.
struct Tile {
    const Segment* segment;
    int64_t first_token;  // of the segment in the step
    int64_t kv_head;
    int64_t first;
    int64_t count;
};

// Calls visit(slot, offset, count) for each run of consecutive slots among the context tokens
// [start, start + count) of a segment; `offset` counts from `start`.
template <class Visit>
void for_each_run(const AttentionMetadata& metadata, const Segment& segment, int64_t start,
                  int64_t count, const Visit& visit) {
    const int64_t* blocks = metadata.block_tables + segment.table_offset;
    const int64_t size = metadata.block_size, end = start + count;
    for (int64_t at = start; at < end;) {
        int64_t block = at / size;
        const int64_t slot = blocks[block] * size + at % size;
        while ((block + 1) * size < end && blocks[block + 1] == blocks[block] + 1) block++;
        const int64_t here = std::min((block + 1) * size, end) - at;
        visit(slot, at - start, here);
        at += here;
    }
}

// Attention of one tile by online softmax, a chunk of the context at a time. Scores are logarithms to
// base 2: their factor is part of the query's, so a weight is a power of two.
template <int ROWS>
class TileAttention {
  public:
    TileAttention(const Call& call, const Tile& tile) : call_(call), tile_(tile) {
        const KvCache& cache = call.cache;
        const int64_t query = ceil_div(ROWS * cache.head_dim, LANES) * LANES;
        query_ = thread_scratch().tile.floats(query + ROWS * (SCORE_STRIDE + cache.value_stride));
        scores_ = query_ + query;
        acc_ = scores_ + ROWS * SCORE_STRIDE;
        std::fill(acc_, acc_ + ROWS * cache.value_stride, 0.0f);
        read_queries(LOG2_E / std::sqrt(static_cast<float>(cache.head_dim)));
        for (int r = 0; r < ROWS; r++)
            visible_[r] = tile.segment->context_len + (call.mask == MaskKind::FULL
                                                      ? tile.segment->query_len
                                                      : token(r) - tile.first_token + 1);
        std::fill(row_max_, row_max_ + PADDED_ROWS, MINUS_INFINITY);
        std::fill(row_sum_, row_sum_ + PADDED_ROWS, 0.0f);
    }

    void run() {
        prefetch_next_tile();
        const int64_t context = visible_[ROWS - 1];  // the last token attends to the most
        int64_t count;
        for (int64_t start = 0; start < context; start += count) {
            count = chunk(context - start);
            score(start, count);
            raise_maxima(start, count);
            for (int r = 0; r < ROWS; r++)
                row_sum_[r] += exponentiate(r, visible_[r] - start, count);
            add_values(start, count);
        }
        for (int r = 0; r < ROWS; r++) store_row(r);
    }

  private:
    static constexpr int PADDED_ROWS = (ROWS + LANES - 1) / LANES * LANES;
    static constexpr int CHAINS = 4;  // sums, or maxima, in flight at once

    int64_t token(int r) const { return tile_.first_token + (tile_.first + r) / call_.group(); }
    int64_t head(int r) const {
        return tile_.kv_head * call_.group() + (tile_.first + r) % call_.group();
    }

    const float* query(int r) const {
        return call_.token(token(r)) + head(r) * call_.cache.head_dim;
    }

    // Fills query_, squares at a time: rows that are stored spill over into what is written later.
    void read_queries(float scale) {
        const float* queries[ROWS];
        for (int r = 0; r < ROWS; r++) queries[r] = query(r);
        const int64_t dim = call_.cache.head_dim;
        int64_t d = 0;
        for (; d + LANES <= dim; d += LANES) {
            Bits squares[PADDED_ROWS / LANES][LANES] = {};
            for (int r = 0; r < ROWS; r++)
                squares[r / LANES][r % LANES] = bit_cast<Bits>(load(queries[r] + d) * scale);
            for (auto& square : squares) transpose(square);
            for (int i = 0; i < LANES; i++)
                for (int r = 0; r < ROWS; r += LANES)
                    store(query_ + (d + i) * ROWS + r, to_vec(squares[r / LANES][i]));
        }
        for (; d < dim; d++)
            for (int r = 0; r < ROWS; r++) query_[d * ROWS + r] = queries[r][d] * scale;
    }

    // The queries of the tile after this one: their rows are pages apart, which no hardware foresees.
    void prefetch_next_tile() const {
        for (int r = ROWS; r < 2 * ROWS; r++)
            for (int64_t d = 0; d < call_.cache.head_dim; d += LANES)
                __builtin_prefetch(query(r) + d, 0, 2);
    }

    // Tokens of the next chunk, with `left` to come. Where all tiles of a segment have the same context,
    // its last few tokens join the chunk before them.
    int64_t chunk(int64_t left) const {
        const int64_t longest = call_.mask == MaskKind::FULL ? SCORE_STRIDE : CHUNK;
        return left <= longest ? left : CHUNK;
    }

    // scores[r][i] of the context tokens start + i.
    void score(int64_t start, int64_t count) {
        for_each_run(call_.metadata, *tile_.segment, start, count,
                     [&](int64_t slot, int64_t offset, int64_t here) {
                         const int64_t end = slot + here;
                         for (int64_t done; slot < end; slot += done, offset += done) {
                             if (slot % LANES == 0 && slot + 2 * LANES <= end)
                                 done = score_pair(slot, scores_ + offset);
                             else
                                 done = score_part(slot, end, scores_ + offset);
                         }
                     });
    }

    // Scores of two whole key groups, to scores[r][0 ...]; returns how many.
    __attribute__((noinline)) int64_t score_pair(int64_t slot, float* scores) {
        const KeyGroups<2> keys = key_groups<2>(slot);
        strided_kernel<ROWS, ROWS, 1, SCORE_STRIDE>(query_, keys, keys.head_dim, scores, true);
        return 2 * LANES;
    }

    // The same of the slots before `end` that share a key group with `slot`.
    __attribute__((noinline)) int64_t score_part(int64_t slot, int64_t end, float* scores) {
        const int64_t lane = slot % LANES;
        const int64_t here = std::min<int64_t>(LANES - lane, end - slot);
        alignas(64) float acc[ROWS * LANES];
        const KeyGroups<1> keys = key_groups<1>(slot);
        micro_kernel<ROWS, ROWS, 1>(query_, keys, keys.head_dim, acc, true);
        for (int r = 0; r < ROWS; r++)
            std::memcpy(scores + r * SCORE_STRIDE, acc + r * LANES + lane, here * sizeof(float));
        return here;
    }

    template <int COUNT>
    KeyGroups<COUNT> key_groups(int64_t slot) const {
        const KvCache& cache = call_.cache;
        return {cache.key_group(call_.layer, tile_.kv_head, slot), cache.head_dim};
    }

    // Row maxima with this chunk's scores; what was summed up before is rescaled to them.
    void raise_maxima(int64_t start, int64_t count) {
        alignas(64) float rescale[PADDED_ROWS] = {};
        bool is_raised = false;
        for (int r = 0; r < ROWS; r++) {
            const float highest = highest_score(r, std::min(visible_[r] - start, count));
            rescale[r] = row_max_[r] - highest;
            is_raised |= !(highest == row_max_[r]);
            row_max_[r] = highest;
        }
        if (!is_raised) return;
        for (int r = 0; r < PADDED_ROWS; r += LANES) {
            store(rescale + r, power_of_two(load(rescale + r)));
            store(row_sum_ + r, load(row_sum_ + r) * load(rescale + r));
        }
        for (int r = 0; r < ROWS; r++)
            for (int64_t at = 0; at < call_.cache.value_stride; at += LANES) {
                float* acc = acc_at(r, at);
                store(acc, load(acc) * rescale[r]);
            }
    }

    // The maximum of the row so far and its first `visible` scores. The vector that they end in is
    // filled up with minus infinity.
    float highest_score(int r, int64_t visible) {
        if (visible <= 0) return row_max_[r];
        float* scores = scores_ + r * SCORE_STRIDE;
        const int64_t end = ceil_div(visible, LANES) * LANES;
        std::fill(scores + visible, scores + end, MINUS_INFINITY);
        Vec highest[CHAINS];
        std::fill(highest, highest + CHAINS, broadcast(row_max_[r]));
        int64_t i = 0;
        for (; i + CHAINS * LANES <= end; i += CHAINS * LANES)
            for (int c = 0; c < CHAINS; c++)
                highest[c] = maximum(load(scores + i + c * LANES), highest[c]);
        for (; i < end; i += LANES) highest[0] = maximum(load(scores + i), highest[0]);
        return reduce_max(
            maximum(maximum(highest[0], highest[1]), maximum(highest[2], highest[3])));
    }

    // Turns the first `visible` scores into weights, 2^(score - row maximum), and the rest of `count`
    // into zeros; returns the sum.
    float exponentiate(int r, int64_t visible, int64_t count) {
        float* scores = scores_ + r * SCORE_STRIDE;
        visible = std::max<int64_t>(std::min(visible, count), 0);
        const Vec row_max = broadcast(row_max_[r]);
        const int64_t end = ceil_div(visible, LANES) * LANES;
        Vec total[CHAINS] = {};
        int64_t i = 0;
        for (; i + CHAINS * LANES <= visible; i += CHAINS * LANES)
            for (int c = 0; c < CHAINS; c++)
                total[c] += weigh(scores + i + c * LANES, row_max);
        for (; i + LANES <= visible; i += LANES) total[0] += weigh(scores + i, row_max);
        if (i < visible) {
            weigh(scores + i, row_max);
            std::fill(scores + visible, scores + end, 0.0f);
            total[0] += load(scores + i);
        }
        if (end < count) std::fill(scores + end, scores + count, 0.0f);
        return reduce_add((total[0] + total[1]) + (total[2] + total[3]));
    }

    static Vec weigh(float* scores, Vec row_max) {
        const Vec weight = power_of_two(load(scores) - row_max);
        store(scores, weight);
        return weight;
    }

    void add_values(int64_t start, int64_t count) {
        const KvCache& cache = call_.cache;
        for_each_run(call_.metadata, *tile_.segment, start, count,
                     [&](int64_t slot, int64_t offset, int64_t here) {
            const float* values = cache.value_row(call_.layer, tile_.kv_head, slot);
            for (int64_t at = 0; at < cache.value_stride; at += NR) {
                const Prefetch prefetch{values + at + PREFETCH_BYTES / 4, cache.value_stride * 4};
                const F32Panel panel{values + at, cache.value_stride, prefetch};
                add_weighted(scores_ + offset, panel, here, acc_at(0, at));
            }
        });
    }

    // Not inlined, so that the compiler can use all registers for it.
    __attribute__((noinline)) static void add_weighted(const float* weights, F32Panel values,
                                                       int64_t count, float* acc) {
        micro_kernel<ROWS, 1, SCORE_STRIDE>(weights, values, count, acc, false);
    }

    void store_row(int r) {
        const int64_t dim = call_.cache.head_dim;
        float* to = call_.attended + (token(r) * call_.query_heads + head(r)) * dim;
        const float scale = 1.0f / row_sum_[r];
        int64_t d = 0;
        for (; d + LANES <= dim; d += LANES) store(to + d, load(acc_at(r, d)) * scale);
        for (; d < dim; d++) to[d] = *acc_at(r, d) * scale;
    }

    // acc [value_stride / NR][ROWS][NR]
    float* acc_at(int r, int64_t d) { return acc_ + (d / NR * ROWS + r) * NR + d % NR; }

    const Call& call_;
    const Tile& tile_;
    float* query_;   // [head_dim][ROWS], scaled
    float* scores_;  // [ROWS][SCORE_STRIDE]
    float* acc_;
    int64_t visible_[ROWS];
    alignas(64) float row_max_[PADDED_ROWS];
    alignas(64) float row_sum_[PADDED_ROWS];
};

}  // namespace glm4v
