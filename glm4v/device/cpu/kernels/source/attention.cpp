#include "attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "scratch.h"
#include "team.h"
#include "tile.h"

namespace glm4v {
namespace {

// Context rows whose scores are held at once. A row's sums are cut at multiples of this whatever
// stands beside it, so its result is its own.
constexpr int64_t CHUNK = 512;
constexpr int64_t SCORES = CHUNK + LANES;  // from row to row: a power of two would collide in the cache
constexpr int64_t ROWS_WRITTEN = 4;  // to the cache by one task
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

// What one call is about.
struct Call {
    const Cache& cache;
    int64_t layer;
    const Step& step;
    const Rotation& rotation;
    int64_t query_heads;
    float* heads;
    float* attended;
    Sight sight;

    int64_t group() const { return query_heads / cache.kv_heads; }  // query heads of a kv head
    float* row(int64_t row) const {
        return heads + row * (query_heads + 2 * cache.kv_heads) * cache.head_dim;
    }
};

void rotate(const Rotation& rotation, int64_t position, int64_t heads, int64_t head_dim,
            float* row) {
    const float* cosine = rotation.cosine + position * rotation.pairs;
    const float* sine = rotation.sine + position * rotation.pairs;
    for (int64_t h = 0; h < heads; h++) {
        float* head = row + h * head_dim;
        for (int64_t i = 0; i < rotation.pairs; i++) {
            const float a = head[2 * i], b = head[2 * i + 1];
            head[2 * i] = a * cosine[i] - b * sine[i];
            head[2 * i + 1] = b * cosine[i] + a * sine[i];
        }
    }
}

void write(const Call& call, int64_t row, int64_t slot) {
    const Cache& cache = call.cache;
    float* heads = call.row(row);
    if (call.rotation.pairs > 0)
        rotate(call.rotation, call.step.positions[row], call.query_heads + cache.kv_heads,
               cache.head_dim, heads);
    const float* key = heads + call.query_heads * cache.head_dim;
    const float* value = key + cache.kv_heads * cache.head_dim;
    for (int64_t h = 0; h < cache.kv_heads; h++, key += cache.head_dim, value += cache.head_dim) {
        float* to = cache.key_group(call.layer, h, slot) + slot % LANES;
        for (int64_t d = 0; d < cache.head_dim; d++) to[d * LANES] = key[d];
        std::memcpy(cache.value_row(call.layer, h, slot), value, cache.head_dim * sizeof(float));
    }
}

// Query vectors [first, first + count) of a segment that share a kv head. Vector v is that of head
// v % group of row v / group: what one tile multiplies, be it heads of a decode or rows of a prefill.
struct Tile {
    const Segment* segment;
    int64_t first_row;  // of the segment in the step
    int64_t kv_head;
    int64_t first;
    int64_t count;
};

// Calls visit(slot, place, count) for the stretches of neighbouring slots that hold the context rows
// [start, start + count) of a segment; `place` counts from `start`.
template <class Visit>
void stretches(const Step& step, const Segment& segment, int64_t start, int64_t count,
               const Visit& visit) {
    const int64_t* blocks = step.blocks + segment.first_block;
    const int64_t size = step.block_size, end = start + count;
    for (int64_t at = start; at < end;) {
        int64_t block = at / size;
        const int64_t slot = blocks[block] * size + at % size;
        while ((block + 1) * size < end && blocks[block + 1] == blocks[block] + 1) block++;
        const int64_t here = std::min((block + 1) * size, end) - at;
        visit(slot, at - start, here);
        at += here;
    }
}

template <int ROWS>
class TileAttention {
  public:
    TileAttention(const Call& call, const Tile& tile) : call_(call), tile_(tile) {
        const Cache& cache = call.cache;
        const int64_t query = up(ROWS * cache.head_dim, LANES) * LANES;
        query_ = thread_memory().tile.floats(query + ROWS * (SCORES + cache.width));
        scores_ = query_ + query;
        sums_ = scores_ + ROWS * SCORES;
        std::fill(sums_, sums_ + ROWS * cache.width, 0.0f);
        const float scale = 1.0f / std::sqrt(static_cast<float>(cache.head_dim));
        for (int r = 0; r < ROWS; r++) {
            const float* from = call.row(row(r)) + head(r) * cache.head_dim;
            for (int64_t d = 0; d < cache.head_dim; d++) query_[d * ROWS + r] = from[d] * scale;
            seen_[r] = tile.segment->context_len + (call.sight == Sight::ALL
                                                      ? tile.segment->rows
                                                      : row(r) - tile.first_row + 1);
            most_[r] = NOTHING;
            total_[r] = 0.0f;
        }
    }

    void run() {
        const int64_t context = seen_[ROWS - 1];  // the last row sees most
        for (int64_t start = 0; start < context; start += CHUNK) {
            const int64_t count = std::min(CHUNK, context - start);
            score(start, count);
            for (int r = 0; r < ROWS; r++) take_shares(r, seen_[r] - start, count);
            add_values(start, count);
        }
        for (int r = 0; r < ROWS; r++) put(r);
    }

  private:
    int64_t row(int r) const { return tile_.first_row + (tile_.first + r) / call_.group(); }
    int64_t head(int r) const {
        return tile_.kv_head * call_.group() + (tile_.first + r) % call_.group();
    }

    // scores[r][i] of the context rows start + i.
    void score(int64_t start, int64_t count) {
        stretches(call_.step, *tile_.segment, start, count,
                  [&](int64_t slot, int64_t place, int64_t here) {
                      const int64_t end = slot + here;
                      while (slot < end) {
                          const bool are_two = slot % LANES == 0 && slot + 2 * LANES <= end;
                          const int64_t done =
                              are_two ? score_groups<2>(slot, end, scores_ + place)
                                      : score_groups<1>(slot, end, scores_ + place);
                          slot += done;
                          place += done;
                      }
                  });
    }

    // The scores of the slots from `slot` on that lie in COUNT groups, to scores[r][0 ...]; how many.
    template <int COUNT>
    __attribute__((noinline)) int64_t score_groups(int64_t slot, int64_t end, float* scores) {
        const Cache& cache = call_.cache;
        const int64_t lane = slot % LANES;
        const int64_t here = std::min<int64_t>(COUNT * LANES - lane, end - slot);
        alignas(64) float sums[ROWS * COUNT * LANES];
        const Groups<COUNT> keys{cache.key_group(call_.layer, tile_.kv_head, slot),
                                 cache.head_dim};
        multiply<ROWS, ROWS, 1>(query_, keys, cache.head_dim, sums, true);
        for (int r = 0; r < ROWS; r++)
            std::memcpy(scores + r * SCORES, sums + r * COUNT * LANES + lane,
                        here * sizeof(float));
        return here;
    }

    // Scores to shares e^(score - most), of the first `seen`; what was summed before shrinks.
    void take_shares(int r, int64_t seen, int64_t count) {
        float* scores = scores_ + r * SCORES;
        seen = std::min(seen, count);
        if (seen <= 0) {
            std::fill(scores, scores + count, 0.0f);
            return;
        }
        const int64_t whole = seen / LANES * LANES;
        std::fill(scores + seen, scores + std::min(up(count, LANES) * LANES, CHUNK), NOTHING);
        Vec highest = all(most_[r]);
        for (int64_t i = 0; i < seen; i += LANES) {
            const Vec score = load(scores + i);
            highest = score > highest ? score : highest;
        }
        const float most = largest(highest);
        Vec total = {};
        for (int64_t i = 0; i < whole; i += LANES) {
            const Vec share = exponential(load(scores + i) - most);
            store(scores + i, share);
            total += share;
        }
        if (whole < seen) {
            store(scores + whole, exponential(load(scores + whole) - most));
            std::fill(scores + seen, scores + whole + LANES, 0.0f);
            total += load(scores + whole);
        }
        for (int64_t i = up(seen, LANES) * LANES; i < count; i++) scores[i] = 0.0f;
        const float shrink = exponential(all(most_[r] - most))[0];
        total_[r] = total_[r] * shrink + sum(total);
        for (int64_t at = 0; at < call_.cache.width; at += LANES) {
            float* sums = sum_at(r, at);
            store(sums, load(sums) * shrink);
        }
        most_[r] = most;
    }

    void add_values(int64_t start, int64_t count) {
        const Cache& cache = call_.cache;
        stretches(call_.step, *tile_.segment, start, count, [&](int64_t slot, int64_t place, int64_t here) {
            const float* values = cache.value_row(call_.layer, tile_.kv_head, slot);
            for (int64_t at = 0; at < cache.width; at += PANEL) {
                const Ahead ahead{values + at + AHEAD / 4, cache.width * 4};
                const Floats lines{values + at, cache.width, ahead};
                add_shares(scores_ + place, lines, here, sum_at(0, at));
            }
        });
    }

    // A function of its own, that the compiler may have all registers for it.
    __attribute__((noinline)) static void add_shares(const float* shares, Floats values,
                                                     int64_t count, float* sums) {
        multiply<ROWS, 1, SCORES>(shares, values, count, sums, false);
    }

    void put(int r) {
        const int64_t dim = call_.cache.head_dim;
        float* to = call_.attended + (row(r) * call_.query_heads + head(r)) * dim;
        const float part = 1.0f / total_[r];
        for (int64_t d = 0; d < dim; d++) to[d] = *sum_at(r, d) * part;
    }

    // sums [width / PANEL][ROWS][PANEL]
    float* sum_at(int r, int64_t d) {
        return sums_ + (d / PANEL * ROWS + r) * PANEL + d % PANEL;
    }

    const Call& call_;
    const Tile& tile_;
    float* query_;   // [head_dim][ROWS], scaled
    float* scores_;  // [ROWS][SCORES]
    float* sums_;
    int64_t seen_[ROWS];
    float most_[ROWS];
    float total_[ROWS];
};

template <int ROWS>
void attend_tile(const Call& call, const Tile& tile) {
    TileAttention<ROWS>(call, tile).run();
}

using AttendTile = void (*)(const Call& call, const Tile& tile);

template <int... N>
constexpr std::array<AttendTile, MOST_ROWS> table(std::integer_sequence<int, N...>) {
    return {attend_tile<N + 1>...};
}

constexpr auto ATTEND = table(std::make_integer_sequence<int, MOST_ROWS>{});

std::vector<Tile> cut(const Call& call) {
    std::vector<Tile> tiles;
    tiles.reserve(call.cache.kv_heads * (call.step.segment_count + call.step.rows));
    int64_t first_row = 0;
    for (int64_t s = 0; s < call.step.segment_count; s++) {
        const Segment& segment = call.step.segments[s];
        const int64_t vectors = segment.rows * call.group();
        const int64_t parts = up(vectors, MOST_ROWS);
        for (int64_t kv_head = 0; kv_head < call.cache.kv_heads; kv_head++)
            for (int64_t p = 0; p < parts; p++) {
                const int64_t first = vectors * p / parts;
                tiles.push_back({&segment, first_row, kv_head, first,
                                 vectors * (p + 1) / parts - first});
            }
        first_row += segment.rows;
    }
    return tiles;
}

// The slot of each row of the step.
std::vector<int64_t> place(const Step& step) {
    std::vector<int64_t> slots;
    slots.reserve(step.rows);
    for (int64_t s = 0; s < step.segment_count; s++) {
        const Segment& segment = step.segments[s];
        const int64_t* blocks = step.blocks + segment.first_block;
        const int64_t size = step.block_size;
        for (int64_t i = segment.context_len; i < segment.context_len + segment.rows; i++)
            slots.push_back(blocks[i / size] * size + i % size);
    }
    return slots;
}

void do_call(const Call& call) {
    const Step& step = call.step;
    const std::vector<Tile> tiles = cut(call);
    const std::vector<int64_t> slots = place(step);
    team()->run(up(step.rows, ROWS_WRITTEN), [&](int64_t task) {
        const int64_t end = std::min((task + 1) * ROWS_WRITTEN, step.rows);
        for (int64_t row = task * ROWS_WRITTEN; row < end; row++) write(call, row, slots[row]);
    });
    team()->run(static_cast<int64_t>(tiles.size()),
               [&](int64_t t) { ATTEND[tiles[t].count - 1](call, tiles[t]); });
}

}  // namespace

void attend(const Cache& cache, int64_t layer, const Step& step, const Rotation& rotation,
            int64_t query_heads, float* heads, float* attended) {
    do_call({cache, layer, step, rotation, query_heads, heads, attended, Sight::UP_TO_ITSELF});
}

void attend_all(int64_t rows, int64_t count, int64_t head_dim, float* heads, float* attended) {
    const int64_t slots = up(rows, LANES) * LANES, width = up(head_dim, PANEL) * PANEL;
    float* keys = thread_memory().cache.floats(count * slots * (head_dim + width));
    float* values = keys + count * slots * head_dim;
    const Cache cache{keys, values, slots, count, head_dim, width};
    const int64_t block = 0;
    const Segment segment{rows, 0, 0};
    const Step step{rows, slots, 1, &segment, &block, nullptr};
    if (width > head_dim) std::fill(values, values + count * slots * width, 0.0f);
    do_call({cache, 0, step, Rotation{}, count, heads, attended, Sight::ALL});
}

}  // namespace glm4v
