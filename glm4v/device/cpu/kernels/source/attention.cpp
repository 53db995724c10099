#include "attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "micro_kernel.h"
#include "scratch.h"
#include "thread_pool.h"

namespace glm4v {
namespace {

// Context tokens whose scores are held at once. The sums of a token are split at multiples of this
// whatever else is in the batch, so that its result does not depend on the batch.
constexpr int64_t CHUNK = 512;
// From row to row of the scores: a power of two would map them to the same cache sets.
constexpr int64_t SCORE_STRIDE = CHUNK + LANES;
constexpr int64_t TOKENS_PER_WRITE = 4;  // written to the cache by one task
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
};

void rotate(const RotaryTable& rotary, int64_t position, int64_t heads, int64_t head_dim,
            float* token) {
    const float* cosine = rotary.cosine + position * rotary.pairs;
    const float* sine = rotary.sine + position * rotary.pairs;
    for (int64_t h = 0; h < heads; h++) {
        float* head = token + h * head_dim;
        for (int64_t i = 0; i < rotary.pairs; i++) {
            const float a = head[2 * i], b = head[2 * i + 1];
            head[2 * i] = a * cosine[i] - b * sine[i];
            head[2 * i + 1] = b * cosine[i] + a * sine[i];
        }
    }
}

void write_token(const Call& call, int64_t token, int64_t slot) {
    const KvCache& cache = call.cache;
    float* heads = call.token(token);
    if (call.rotary.pairs > 0)
        rotate(call.rotary, call.metadata.positions[token], call.query_heads + cache.kv_heads,
               cache.head_dim, heads);
    const float* key = heads + call.query_heads * cache.head_dim;
    const float* value = key + cache.kv_heads * cache.head_dim;
    for (int64_t h = 0; h < cache.kv_heads; h++, key += cache.head_dim, value += cache.head_dim) {
        float* to = cache.key_group(call.layer, h, slot) + slot % LANES;
        for (int64_t d = 0; d < cache.head_dim; d++) to[d * LANES] = key[d];
        std::memcpy(cache.value_row(call.layer, h, slot), value, cache.head_dim * sizeof(float));
    }
}

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

// Attention of one tile by online softmax, a chunk of the context at a time.
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
        const float scale = 1.0f / std::sqrt(static_cast<float>(cache.head_dim));
        for (int r = 0; r < ROWS; r++) {
            const float* from = call.token(token(r)) + head(r) * cache.head_dim;
            for (int64_t d = 0; d < cache.head_dim; d++) query_[d * ROWS + r] = from[d] * scale;
            visible_[r] = tile.segment->context_len + (call.mask == MaskKind::FULL
                                                      ? tile.segment->query_len
                                                      : token(r) - tile.first_token + 1);
            row_max_[r] = MINUS_INFINITY;
            row_sum_[r] = 0.0f;
        }
    }

    void run() {
        const int64_t context = visible_[ROWS - 1];  // the last token attends to the most
        for (int64_t start = 0; start < context; start += CHUNK) {
            const int64_t count = std::min(CHUNK, context - start);
            score(start, count);
            for (int r = 0; r < ROWS; r++) softmax_chunk(r, visible_[r] - start, count);
            add_values(start, count);
        }
        for (int r = 0; r < ROWS; r++) store_row(r);
    }

  private:
    int64_t token(int r) const { return tile_.first_token + (tile_.first + r) / call_.group(); }
    int64_t head(int r) const {
        return tile_.kv_head * call_.group() + (tile_.first + r) % call_.group();
    }

    // scores[r][i] of the context tokens start + i.
    void score(int64_t start, int64_t count) {
        for_each_run(call_.metadata, *tile_.segment, start, count,
                     [&](int64_t slot, int64_t offset, int64_t here) {
                         const int64_t end = slot + here;
                         while (slot < end) {
                             const bool are_two = slot % LANES == 0 && slot + 2 * LANES <= end;
                             const int64_t done =
                                 are_two ? score_groups<2>(slot, end, scores_ + offset)
                                         : score_groups<1>(slot, end, scores_ + offset);
                             slot += done;
                             offset += done;
                         }
                     });
    }

    // Scores of the slots from `slot` on that are in COUNT key groups, to scores[r][0 ...]; returns
    // how many.
    template <int COUNT>
    __attribute__((noinline)) int64_t score_groups(int64_t slot, int64_t end, float* scores) {
        const KvCache& cache = call_.cache;
        const int64_t lane = slot % LANES;
        const int64_t here = std::min<int64_t>(COUNT * LANES - lane, end - slot);
        alignas(64) float acc[ROWS * COUNT * LANES];
        const KeyGroups<COUNT> keys{cache.key_group(call_.layer, tile_.kv_head, slot),
                                    cache.head_dim};
        micro_kernel<ROWS, ROWS, 1>(query_, keys, cache.head_dim, acc, true);
        for (int r = 0; r < ROWS; r++)
            std::memcpy(scores + r * SCORE_STRIDE, acc + r * COUNT * LANES + lane,
                        here * sizeof(float));
        return here;
    }

    // Turns the first `visible` scores into e^(score - row_max) and rescales the row's sums to the
    // new maximum.
    void softmax_chunk(int r, int64_t visible, int64_t count) {
        float* scores = scores_ + r * SCORE_STRIDE;
        visible = std::min(visible, count);
        if (visible <= 0) {
            std::fill(scores, scores + count, 0.0f);
            return;
        }
        const int64_t whole = visible / LANES * LANES;
        std::fill(scores + visible,
                  scores + std::min(ceil_div(count, LANES) * LANES, CHUNK), MINUS_INFINITY);
        Vec highest = broadcast(row_max_[r]);
        for (int64_t i = 0; i < visible; i += LANES) {
            const Vec score = load(scores + i);
            highest = score > highest ? score : highest;
        }
        const float row_max = reduce_max(highest);
        Vec total = {};
        for (int64_t i = 0; i < whole; i += LANES) {
            const Vec weight = exponential(load(scores + i) - row_max);
            store(scores + i, weight);
            total += weight;
        }
        if (whole < visible) {
            store(scores + whole, exponential(load(scores + whole) - row_max));
            std::fill(scores + visible, scores + whole + LANES, 0.0f);
            total += load(scores + whole);
        }
        for (int64_t i = ceil_div(visible, LANES) * LANES; i < count; i++) scores[i] = 0.0f;
        const float rescale = exponential(broadcast(row_max_[r] - row_max))[0];
        row_sum_[r] = row_sum_[r] * rescale + reduce_add(total);
        for (int64_t at = 0; at < call_.cache.value_stride; at += LANES) {
            float* acc = acc_at(r, at);
            store(acc, load(acc) * rescale);
        }
        row_max_[r] = row_max;
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
        for (int64_t d = 0; d < dim; d++) to[d] = *acc_at(r, d) * scale;
    }

    // acc [value_stride / NR][ROWS][NR]
    float* acc_at(int r, int64_t d) { return acc_ + (d / NR * ROWS + r) * NR + d % NR; }

    const Call& call_;
    const Tile& tile_;
    float* query_;   // [head_dim][ROWS], scaled
    float* scores_;  // [ROWS][SCORE_STRIDE]
    float* acc_;
    int64_t visible_[ROWS];
    float row_max_[ROWS];
    float row_sum_[ROWS];
};

template <int ROWS>
void attend_tile(const Call& call, const Tile& tile) {
    TileAttention<ROWS>(call, tile).run();
}

using AttendTile = void (*)(const Call& call, const Tile& tile);

template <int... N>
constexpr std::array<AttendTile, MR> kernel_table(std::integer_sequence<int, N...>) {
    return {attend_tile<N + 1>...};
}

constexpr auto ATTEND = kernel_table(std::make_integer_sequence<int, MR>{});

std::vector<Tile> make_tiles(const Call& call) {
    std::vector<Tile> tiles;
    tiles.reserve(call.cache.kv_heads * (call.metadata.num_segments + call.metadata.num_tokens));
    int64_t first_token = 0;
    for (int64_t s = 0; s < call.metadata.num_segments; s++) {
        const Segment& segment = call.metadata.segments[s];
        const int64_t vectors = segment.query_len * call.group();
        const int64_t parts = ceil_div(vectors, MR);
        for (int64_t kv_head = 0; kv_head < call.cache.kv_heads; kv_head++)
            for (int64_t p = 0; p < parts; p++) {
                const int64_t first = vectors * p / parts;
                tiles.push_back({&segment, first_token, kv_head, first,
                                 vectors * (p + 1) / parts - first});
            }
        first_token += segment.query_len;
    }
    return tiles;
}

// The slot of each token of the step.
std::vector<int64_t> slot_mapping(const AttentionMetadata& metadata) {
    std::vector<int64_t> slots;
    slots.reserve(metadata.num_tokens);
    for (int64_t s = 0; s < metadata.num_segments; s++) {
        const Segment& segment = metadata.segments[s];
        const int64_t* blocks = metadata.block_tables + segment.table_offset;
        const int64_t size = metadata.block_size;
        for (int64_t i = segment.context_len; i < segment.context_len + segment.query_len; i++)
            slots.push_back(blocks[i / size] * size + i % size);
    }
    return slots;
}

void run_call(const Call& call) {
    const AttentionMetadata& metadata = call.metadata;
    const std::vector<Tile> tiles = make_tiles(call);
    const std::vector<int64_t> slots = slot_mapping(metadata);
    thread_pool()->run(ceil_div(metadata.num_tokens, TOKENS_PER_WRITE), [&](int64_t task) {
        const int64_t end = std::min((task + 1) * TOKENS_PER_WRITE, metadata.num_tokens);
        for (int64_t token = task * TOKENS_PER_WRITE; token < end; token++)
            write_token(call, token, slots[token]);
    });
    thread_pool()->run(static_cast<int64_t>(tiles.size()),
                       [&](int64_t t) { ATTEND[tiles[t].count - 1](call, tiles[t]); });
}

}  // namespace

void attend(const KvCache& cache, int64_t layer, const AttentionMetadata& metadata,
            const RotaryTable& rotary, int64_t query_heads, float* qkv, float* attended) {
    run_call({cache, layer, metadata, rotary, query_heads, qkv, attended, MaskKind::CAUSAL});
}

void attend_all(int64_t tokens, int64_t heads, int64_t head_dim, float* qkv, float* attended) {
    const int64_t slots = ceil_div(tokens, LANES) * LANES;
    const int64_t value_stride = ceil_div(head_dim, NR) * NR;
    float* keys = thread_scratch().kv.floats(heads * slots * (head_dim + value_stride));
    float* values = keys + heads * slots * head_dim;
    const KvCache cache{keys, values, slots, heads, head_dim, value_stride};
    const int64_t block = 0;
    const Segment segment{tokens, 0, 0};
    const AttentionMetadata metadata{tokens, slots, 1, &segment, &block, nullptr};
    if (value_stride > head_dim) std::fill(values, values + heads * slots * value_stride, 0.0f);
    run_call({cache, 0, metadata, RotaryTable{}, heads, qkv, attended, MaskKind::FULL});
}

}  // namespace glm4v
