// Tables whose rows are looked up.
#pragma once

#include "matrix_source.h"

namespace glm4v {

// A table of 8-bit integers [rows, columns], scales [rows, ceil(columns / group)].
struct Int8Table {
    const int8_t* integers;
    const float* scales;
    int64_t columns;
    int64_t group;
};

// Copies a table [rows, columns] in bfloat16 or float32. Throws ReadError.
void read_table(const MatrixSource& source, int64_t rows, int32_t bits, void* table);

// Quantizes a table: the integers and scales of an Int8Table. Throws ReadError, NotFinite.
void quantize_table(const MatrixSource& source, int64_t rows, int8_t* integers, float* scales);

// Rows of the table: ids [count] -> y [count][columns].
void look_up(const Int8Table& table, int64_t count, const int64_t* ids, float* y);

}  // namespace glm4v
