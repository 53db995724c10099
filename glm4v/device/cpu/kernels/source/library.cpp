// What Python calls; library.py has the same structures.
#include <cstdint>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "decoder.h"
#include "team.h"

using namespace glm4v;

namespace {

enum Outcome : int { DONE, NO_MEMORY, FAILED };

template <class Work>
int try_to(const Work& work) {
    try {
        work();
        return DONE;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    } catch (...) {
        return FAILED;
    }
}

}  // namespace

extern "C" {

// Bytes of each structure that library.py has too, in its order.
extern const int64_t glm4v_structure_bytes[];
const int64_t glm4v_structure_bytes[] = {sizeof(Weight), sizeof(Cache), sizeof(Segment),
                                         sizeof(Step),   sizeof(Layer), sizeof(Model)};

int glm4v_lanes() { return LANES; }

// Large pages, where there are some: weights are read from end to end, page after page.
void glm4v_prefer_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
    madvise(memory, bytes, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

void glm4v_set_threads(int threads) { set_team_size(threads); }

int64_t glm4v_panels(const Weight* weight) { return panel_count(*weight); }

int glm4v_pack(const Weight* weight, const float* values, void* panels) {
    return try_to([&] { pack(*weight, values, panels); });
}

int glm4v_pack_bias(const Weight* weight, const float* bias, float* packed) {
    return try_to([&] { pack_bias(*weight, bias, packed); });
}

int glm4v_product(const Weight* weight, int64_t rows, const float* x, float* y) {
    return try_to([&] { product(*weight, nullptr, rows, x, nullptr, y); });
}

int glm4v_attend(const Cache* cache, int64_t layer, const Step* step, int64_t query_heads,
                 float* heads, float* attended) {
    return try_to([&] { attend(*cache, layer, *step, Rotation{}, query_heads, heads, attended); });
}

int glm4v_attend_all(int64_t rows, int64_t count, int64_t head_dim, float* heads,
                     float* attended) {
    return try_to([&] { attend_all(rows, count, head_dim, heads, attended); });
}

int glm4v_run_sublayers(const Model* model, const Cache* cache, const Step* step, int64_t first,
                     int64_t last, float* hidden, int64_t* layers_done) {
    return try_to([&] { run_sublayers(*model, *cache, *step, first, last, hidden, layers_done); });
}

}
