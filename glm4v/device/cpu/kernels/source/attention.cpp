#include "attention.h"

#include <array>
#include <utility>
#include <vector>

#include "scratch.h"
#include "thread_pool.h"
#include "tile_attention.h"

namespace glm4v {
namespace {

constexpr int64_t TOKENS_PER_WRITE = 4;  // written to the cache by one task

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
