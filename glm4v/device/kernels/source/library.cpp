// What Python calls; library.py has the same structures.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "decoder.h"
#include "team.h"

using namespace glm4v;

extern "C" {

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

int64_t glm4v_packed_bytes(const Weight* weight) { return packed_bytes(*weight); }

void glm4v_pack(const Weight* weight, const float* values, void* panels) {
    pack(*weight, values, panels);
}

void glm4v_product(const Weight* weight, int64_t rows, const float* x, float* y) {
    product(*weight, nullptr, rows, x, nullptr, y);
}

void glm4v_attend(const Cache* cache, int64_t layer, const Step* step, int64_t query_heads,
                  float* heads, float* attended) {
    attend(*cache, layer, *step, Rotation{}, query_heads, heads, attended);
}

void glm4v_run_halves(const Model* model, const Cache* cache, const Step* step, int64_t first,
                      int64_t last, float* hidden, int64_t* layers_done) {
    run_halves(*model, *cache, *step, first, last, hidden, layers_done);
}

}
