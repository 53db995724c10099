#include "embedding.h"

#include <algorithm>

#include "scratch.h"
#include "thread_pool.h"

namespace glm4v {
namespace {

constexpr int64_t READ_AT_ONCE = 64;     // rows that one task reads
constexpr int64_t QUANTIZE_AT_ONCE = 4;  // and rows that one quantizes: they stay in a core's cache
constexpr int64_t LOOK_UP_AT_ONCE = 16;  // and rows that one looks up

// Calls work(first, count) for the rows of each task.
template <class Work>
void in_tasks(int64_t rows, int64_t at_once, const Work& work) {
    thread_pool()->run(ceil_div(rows, at_once), [&](int64_t task) {
        const int64_t first = task * at_once;
        work(first, std::min(at_once, rows - first));
    });
}

void widen_row(const Int8Table& table, int64_t row, float* to) {
    const int8_t* integers = table.integers + row * table.columns;
    const float* scales = table.scales + row * ceil_div(table.columns, table.group);
    for (int64_t k = 0; k < table.columns; k += table.group, scales++) {
        const int64_t end = std::min(k + table.group, table.columns);
        for (int64_t i = k; i < end; i++) to[i] = static_cast<float>(integers[i]) * *scales;
    }
}

}  // namespace

void read_table(const MatrixSource& source, int64_t rows, int32_t bits, void* table) {
    in_tasks(rows, READ_AT_ONCE, [&](int64_t first, int64_t count) {
        const int64_t at = first * source.columns;
        if (bits == 32)
            read_rows(source, first, count, static_cast<float*>(table) + at);
        else
            read_rows(source, first, count, static_cast<uint16_t*>(table) + at);
    });
}

void quantize_table(const MatrixSource& source, int64_t rows, int8_t* integers, float* scales) {
    const int64_t columns = source.columns, of_a_row = ceil_div(columns, source.group);
    in_tasks(rows, QUANTIZE_AT_ONCE, [&](int64_t first, int64_t count) {
        float* values = thread_scratch().values.floats(count * columns);
        read_rows(source, first, count, values);
        for (int64_t i = 0; i < count; i++)
            quantize_row(values + i * columns, columns, source.group,
                         integers + (first + i) * columns, scales + (first + i) * of_a_row);
    });
}

void look_up(const Int8Table& table, int64_t count, const int64_t* ids, float* y) {
    in_tasks(count, LOOK_UP_AT_ONCE, [&](int64_t first, int64_t here) {
        for (int64_t i = first; i < first + here; i++) widen_row(table, ids[i], y + i * table.columns);
    });
}

}  // namespace glm4v
