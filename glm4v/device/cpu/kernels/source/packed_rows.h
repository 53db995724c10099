// The rows that a GEMM multiplies, as its micro-kernels read them.
#pragma once

#include "gemm.h"

namespace glm4v {

// Rows in tiles whose sizes differ by one at most. A tile is [in_features][rows of it], or groups of
// digits (dots.h).
struct PackedRows {
    int64_t rows;
    int64_t most;   // rows of a tile
    int64_t words;  // of a row
    const float* values;

    int64_t count() const { return ceil_div(rows, most); }
    int64_t first(int64_t tile) const { return rows * tile / count(); }
    int64_t size(int64_t tile) const { return first(tile + 1) - first(tile); }
    const float* tile(int64_t tile) const { return values + first(tile) * words; }
};

// x [rows, in_features], normed unless `norm` is null; in the calling thread's memory, or x itself.
PackedRows pack_rows(const Weight& weight, const Norm* norm, int64_t rows, const float* x);

}  // namespace glm4v
