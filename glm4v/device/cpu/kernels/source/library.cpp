// The functions that Python calls; library.py declares the same structures.
#include <cstdint>
#include <new>

#include "decoder.h"
#include "embedding.h"
#include "thread_pool.h"
#include "vision.h"

using namespace glm4v;

namespace {

// Errors of the system are negative: -errno.
enum Outcome : int { DONE, NO_MEMORY, FAILED, FILE_ENDED, NOT_FINITE };

template <class Work>
int catch_all(const Work& work) {
    try {
        work();
        return DONE;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    } catch (const ReadError& error) {
        return error.number != 0 ? -error.number : FILE_ENDED;
    } catch (const NotFinite&) {
        return NOT_FINITE;
    } catch (...) {
        return FAILED;
    }
}

}  // namespace

extern "C" {

// sizeof each structure that library.py declares, in its order.
extern const int64_t glm4v_structure_bytes[];
const int64_t glm4v_structure_bytes[] = {
    sizeof(Weight),  sizeof(RowSpan),           sizeof(MatrixSource), sizeof(KvCache),
    sizeof(Segment), sizeof(AttentionMetadata), sizeof(DecoderLayer), sizeof(DecoderModel),
    sizeof(VisionLayer), sizeof(Int8Table)};

int glm4v_lanes() { return LANES; }

void glm4v_set_num_threads(int threads) { set_num_threads(threads); }

int64_t glm4v_panel_count(const Weight* weight) { return panel_count(*weight); }

int64_t glm4v_group_count(const Weight* weight) { return group_count(*weight); }

int glm4v_pack(const Weight* weight, const MatrixSource* source, void* panels, float* scales) {
    return catch_all([&] { pack(*weight, *source, panels, scales); });
}

int glm4v_read_table(const MatrixSource* source, int64_t rows, int bits, void* table) {
    return catch_all([&] { read_table(*source, rows, bits, table); });
}

int glm4v_quantize_table(const MatrixSource* source, int64_t rows, int8_t* integers,
                         float* scales) {
    return catch_all([&] { quantize_table(*source, rows, integers, scales); });
}

int glm4v_look_up(const Int8Table* table, int64_t count, const int64_t* ids, float* y) {
    return catch_all([&] { look_up(*table, count, ids, y); });
}

int glm4v_pack_floats(const Weight* weight, const float* values, int64_t count, float* packed) {
    return catch_all([&] { pack_floats(*weight, values, count, packed); });
}

int glm4v_gemm(const Weight* weight, int64_t rows, const float* x, float* y) {
    return catch_all([&] { gemm(*weight, nullptr, rows, x, nullptr, y); });
}

int glm4v_attend(const KvCache* cache, int64_t layer, const AttentionMetadata* metadata,
                 int64_t query_heads, float* qkv, float* attended) {
    return catch_all(
        [&] { attend(*cache, layer, *metadata, RotaryTable{}, query_heads, qkv, attended); });
}

int glm4v_attend_all(int64_t tokens, int64_t heads, int64_t head_dim, float* qkv,
                     float* attended) {
    return catch_all([&] { attend_all(tokens, heads, head_dim, qkv, attended); });
}

int glm4v_run_vision_layer(const VisionLayer* layer, int64_t tokens, const float* x, float* y) {
    return catch_all([&] { run_vision_layer(*layer, tokens, x, y); });
}

int glm4v_run_sublayers(const DecoderModel* model, const KvCache* cache,
                        const AttentionMetadata* metadata, int64_t first, int64_t last,
                        float* hidden, int64_t* layers_done) {
    return catch_all(
        [&] { run_sublayers(*model, *cache, *metadata, first, last, hidden, layers_done); });
}

}
