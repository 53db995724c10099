// Where the values of a weight come from: memory, or files that are read piece by piece.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "scratch.h"

namespace glm4v {

enum Dtype : int32_t { F32, F16, BF16, I8 };

// Rows that lie at equal distances.
struct RowSpan {
    const void* memory;  // where the first one lies; null: in a file
    int64_t offset;      // of the first one in the file, in bytes
    int64_t stride;      // from one to the next, in bytes
    int64_t rows;
    int32_t file;  // a descriptor
};

// A matrix [rows, columns] whose rows are those of the spans, one span after the other.
struct MatrixSource {
    const RowSpan* spans;
    int64_t span_count;
    int64_t columns;
    int64_t skipped;  // columns in front of the weight's: a part of a matrix keeps its scales
    int64_t group;    // columns that are quantized with one scale; 0 where 8 bits are read
    int32_t dtype;    // a Dtype
};

// A file that cannot be read: an error of the system, or 0 where it ends too early.
struct ReadError : std::runtime_error {
    explicit ReadError(int number) : std::runtime_error("read"), number(number) {}
    int number;
};

// NaN and infinite values, which 8 bits cannot hold.
struct NotFinite : std::runtime_error {
    NotFinite() : std::runtime_error("not finite") {}
};

// Rows of a source, to [count][columns], as float32, as bfloat16 (rounded to the nearest), or, of a
// source of I8, as they are. Each byte is read once. Throws ReadError.
void read_rows(const MatrixSource& source, int64_t first, int64_t count, float* to);
void read_rows(const MatrixSource& source, int64_t first, int64_t count, uint16_t* to);
void read_rows(const MatrixSource& source, int64_t first, int64_t count, int8_t* to);

// Quantizes a row by the rule of glm4v/checkpoint/quantized.py: values [columns] -> integers
// [columns], scales [ceil(columns / group)]. Throws NotFinite.
void quantize_row(const float* values, int64_t columns, int64_t group, int8_t* integers,
                  float* scales);

}  // namespace glm4v
