#include "attention.h"

#include <array>
#include <utility>
#include <vector>

#include "scratch.h"
#include "thread_pool.h"
#include "tile_attention.h"
#include "transpose.h"

namespace glm4v {
namespace {

constexpr int64_t FEW_TOKENS = 128;     // or fewer are written to the cache in smaller tasks
constexpr int64_t FEW_TOKENS_TASK = 4;  // than key groups

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

// Keys and values of one token to its slot of the cache.
void write_token(const Call& call, int64_t token, int64_t slot) {
    const KvCache& cache = call.cache;
    const float* key = call.key(token);
    const float* value = call.value(token);
    for (int64_t h = 0; h < cache.kv_heads; h++, key += cache.head_dim, value += cache.head_dim) {
        float* to = cache.key_group(call.layer, h, slot) + slot % LANES;
        for (int64_t d = 0; d < cache.head_dim; d++) to[d * LANES] = key[d];
        std::memcpy(cache.value_row(call.layer, h, slot), value, cache.head_dim * sizeof(float));
    }
}

// The same of LANES tokens whose slots are a key group, squares of keys at a time.
void write_group(const Call& call, int64_t first, int64_t slot) {
    const KvCache& cache = call.cache;
    const int64_t dim = cache.head_dim;
    for (int64_t h = 0; h < cache.kv_heads; h++) {
        float* to = cache.key_group(call.layer, h, slot);
        for (int64_t d = 0; d < dim; d += LANES) {
            Bits square[LANES];
            for (int i = 0; i < LANES; i++)
                square[i] = bit_cast<Bits>(load(call.key(first + i) + h * dim + d));
            transpose(square);
            for (int i = 0; i < LANES; i++) store(to + (d + i) * LANES, to_vec(square[i]));
        }
        for (int i = 0; i < LANES; i++)
            std::memcpy(cache.value_row(call.layer, h, slot + i), call.value(first + i) + h * dim,
                        dim * sizeof(float));
    }
}

bool is_group(const Call& call, const int64_t* slots, int64_t count) {
    bool is_run = count == LANES && slots[0] % LANES == 0 && call.cache.head_dim % LANES == 0;
    for (int64_t i = 1; i < count; i++) is_run &= slots[i] == slots[0] + i;
    return is_run;
}

void write_tokens(const Call& call, int64_t first, int64_t count, const int64_t* slots) {
    const KvCache& cache = call.cache;
    if (call.rotary.pairs > 0)
        for (int64_t token = first; token < first + count; token++)
            rotate(call.rotary, call.metadata.positions[token], call.query_heads + cache.kv_heads,
                   cache.head_dim, call.token(token));
    if (is_group(call, slots, count))
        write_group(call, first, slots[0]);
    else
        for (int64_t i = 0; i < count; i++) write_token(call, first + i, slots[i]);
}

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
    const int64_t at_once = metadata.num_tokens <= FEW_TOKENS ? FEW_TOKENS_TASK : LANES;
    thread_pool()->run(ceil_div(metadata.num_tokens, at_once), [&](int64_t task) {
        const int64_t first = task * at_once;
        const int64_t count = std::min(at_once, metadata.num_tokens - first);
        write_tokens(call, first, count, slots.data() + first);
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
