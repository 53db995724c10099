// The kernels against loops in double precision, for processors that Python does not run on here.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "attention.h"
#include "gemm.h"
#include "thread_pool.h"

using namespace glm4v;

namespace {

std::mt19937 rng(1);
int wrong = 0, compared = 0;

std::vector<float> random_floats(int64_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) value = normal(rng);
    return values;
}

void compare(const char* what, float found, double expected) {
    compared++;
    if (std::abs(found - expected) <= 5e-4 * std::max(1.0, std::abs(expected))) return;
    if (wrong++ < 10) std::printf("%s: %g instead of %g\n", what, found, expected);
}

float rounded(float value) {  // to bfloat16, towards zero
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits &= 0xffff0000u;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

double activated(Epilogue epilogue, double value, double gated) {
    if (epilogue == GELU) return value / 2 * (1 + std::erf(value / std::sqrt(2.0)));
    if (epilogue == SILU_GATE) return value / (1 + std::exp(-value)) * gated;
    return value;
}

void check_gemm(int64_t rows, int64_t inputs, int64_t columns, int32_t bits, Epilogue epilogue) {
    const int64_t kept = epilogue == SILU_GATE ? 2 * columns : columns;
    std::vector<float> values = random_floats(kept * inputs), bias = random_floats(kept);
    if (bits == 16)
        for (float& value : values) value = rounded(value);
    const std::vector<float> x = random_floats(rows * inputs);
    Weight weight{columns, inputs, nullptr, nullptr, nullptr, 0, 0, bits, epilogue};
    const int64_t panels = panel_count(weight);
    std::vector<float> packed(panels * inputs * NR), packed_bias(panels * NR);
    const RowSpan span{values.data(), 0, inputs * int64_t{sizeof(float)}, kept, 0};
    pack(weight, {&span, 1, inputs, 0, 0, F32}, packed.data(), nullptr);
    pack_floats(weight, bias.data(), 1, packed_bias.data());
    weight.panels = packed.data();
    weight.bias = packed_bias.data();
    std::vector<float> y(rows * columns);
    gemm(weight, nullptr, rows, x.data(), nullptr, y.data());
    const auto sum = [&](int64_t row, int64_t column) {
        double total = bias[column];
        for (int64_t k = 0; k < inputs; k++)
            total += double(x[row * inputs + k]) * values[column * inputs + k];
        return total;
    };
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++) {
            const double gated = epilogue == SILU_GATE ? sum(row, columns + column) : 0;
            compare("gemm", y[row * columns + column],
                    activated(epilogue, sum(row, column), gated));
        }
}

// 8 bits: groups of inputs with a scale each, of which the first may begin before the weight.
void check_groups(int64_t rows, int64_t inputs, int64_t columns, int64_t group, int64_t lead,
                  Epilogue epilogue) {
    const int64_t kept = epilogue == SILU_GATE ? 2 * columns : columns;
    Weight weight{columns, inputs, nullptr, nullptr, nullptr, group, lead, 8, epilogue};
    const int64_t panels = panel_count(weight), groups = group_count(weight);
    std::vector<int8_t> values(kept * inputs), packed(panels * inputs * NR);
    std::uniform_int_distribution<int> bytes(-127, 127);
    for (int8_t& value : values) value = bytes(rng);
    std::vector<float> scales = random_floats(kept * groups), packed_scales(panels * groups * NR);
    for (float& scale : scales) scale /= 64;
    const std::vector<float> x = random_floats(rows * inputs);
    const RowSpan span{values.data(), 0, inputs, kept, 0};
    pack(weight, {&span, 1, inputs, 0, 0, I8}, packed.data(), nullptr);
    pack_floats(weight, scales.data(), groups, packed_scales.data());
    weight.panels = packed.data();
    weight.scales = packed_scales.data();
    std::vector<float> y(rows * columns), one(columns);
    gemm(weight, nullptr, rows, x.data(), nullptr, y.data());
    const auto sum = [&](int64_t row, int64_t column) {
        double total = 0;
        for (int64_t k = 0; k < inputs; k++)
            total += double(x[row * inputs + k]) * values[column * inputs + k] *
                     scales[column * groups + (lead + k) / group];
        return total;
    };
    for (int64_t row = 0; row < rows; row++) {
        gemm(weight, nullptr, 1, &x[row * inputs], nullptr, one.data());
        for (int64_t column = 0; column < columns; column++) {
            const double gated = epilogue == SILU_GATE ? sum(row, columns + column) : 0;
            compare("gemm of 8 bits", y[row * columns + column],
                    activated(epilogue, sum(row, column), gated));
            compare("a row alone", one[column] == y[row * columns + column], 1);
        }
    }
}

// One query's attention to the first `seen` rows; key(i), value(i) are theirs.
template <class Key, class Value>
void check_row(const char* what, const float* query, const float* found, int64_t seen, int64_t dim,
               Key key, Value value) {
    std::vector<double> weights(seen);
    double total = 0;
    for (int64_t i = 0; i < seen; i++) {
        double score = 0;
        for (int64_t d = 0; d < dim; d++) score += double(query[d]) * key(i)[d];
        total += weights[i] = std::exp(score / std::sqrt(double(dim)));
    }
    for (int64_t d = 0; d < dim; d++) {
        double expected = 0;
        for (int64_t i = 0; i < seen; i++) expected += weights[i] / total * value(i)[d];
        compare(what, found[d], expected);
    }
}

void check_attend_all(int64_t rows, int64_t count, int64_t dim) {
    std::vector<float> heads = random_floats(rows * 3 * count * dim);
    const std::vector<float> before = heads;
    std::vector<float> attended(rows * count * dim);
    attend_all(rows, count, dim, heads.data(), attended.data());
    const auto at = [&](int64_t row, int64_t head) {
        return before.data() + (row * 3 * count + head) * dim;
    };
    for (int64_t row = 0; row < rows; row++)
        for (int64_t head = 0; head < count; head++)
            check_row(
                "attend_all", at(row, head), &attended[(row * count + head) * dim], rows, dim,
                [&](int64_t i) { return at(i, count + head); },
                [&](int64_t i) { return at(i, 2 * count + head); });
}

// A sequence in two steps: `first` rows, then one row that sees them all.
void check_paged(int64_t first, int64_t query_heads, int64_t kv_heads, int64_t dim) {
    const int64_t block = 16, blocks_needed = first / block + 1, slots = (blocks_needed + 2) * block;
    const int64_t width = (dim + NR - 1) / NR * NR, all = query_heads + 2 * kv_heads;
    std::vector<float> keys(kv_heads * slots * dim), values(kv_heads * slots * width);
    const KvCache cache{keys.data(), values.data(), slots, kv_heads, dim, width};
    std::vector<int64_t> table(blocks_needed);
    for (int64_t i = 0; i < blocks_needed; i++) table[i] = blocks_needed + 1 - i;  // from behind
    const std::vector<float> before = random_floats((first + 1) * all * dim);
    std::vector<float> heads = before, attended((first + 1) * query_heads * dim);
    std::vector<int64_t> positions(first + 1);
    for (int64_t start : {int64_t(0), first}) {
        const int64_t rows = start == 0 ? first : 1;
        const Segment segment{rows, start, 0};
        const AttentionMetadata metadata{rows, block, 1, &segment, table.data(), positions.data()};
        attend(cache, 0, metadata, RotaryTable{}, query_heads, &heads[start * all * dim],
               &attended[start * query_heads * dim]);
    }
    const auto at = [&](int64_t row, int64_t head) {
        return before.data() + (row * all + head) * dim;
    };
    for (int64_t row = 0; row <= first; row++)
        for (int64_t head = 0; head < query_heads; head++) {
            const int64_t shared = query_heads + head * kv_heads / query_heads;
            check_row(
                "attend", at(row, head), &attended[(row * query_heads + head) * dim], row + 1, dim,
                [&](int64_t i) { return at(i, shared); },
                [&](int64_t i) { return at(i, shared + kv_heads); });
        }
}

}  // namespace

int main() {
    set_num_threads(2);
    for (int64_t rows : {1, 2, 7, 13, 30})
        for (int32_t bits : {16, 32})
            for (Epilogue epilogue : {NONE, GELU, SILU_GATE}) {
                check_gemm(rows, 77, 45, bits, epilogue);
                check_gemm(rows, 530, 16, bits, epilogue);
            }
    for (int64_t rows : {1, 2, 7, 13, 30})
        for (Epilogue epilogue : {NONE, GELU, SILU_GATE}) {
            check_groups(rows, 77, 45, 64, 0, epilogue);
            check_groups(rows, 530, 16, 128, 32, epilogue);
        }
    for (int64_t rows : {1, 5, 40}) check_attend_all(rows, 2, 20);
    for (int64_t rows : {1, 17, 70}) {
        check_paged(rows, 6, 2, 12);
        check_paged(rows, 4, 4, 32);
    }
    std::printf("lanes %d, %d numbers compared, %d wrong\n", int(LANES), compared, wrong);
    return wrong == 0 ? 0 : 1;
}
