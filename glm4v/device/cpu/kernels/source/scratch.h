// Memory that a thread keeps for its next call.
//
// Not `thread_local`: C++ cannot report that memory ran out for such a variable, or for registering
// its destructor, and ends the process.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace glm4v {

constexpr int64_t ceil_div(int64_t count, int64_t part) { return (count + part - 1) / part; }

class Scratch {
  public:
    // `count` floats aligned to cache lines; the previous contents are lost.
    float* floats(size_t count) {
        if (count > size_) {
            memory_.reset();
            size_ = 0;
            void* memory = std::aligned_alloc(64, ceil_div(count * sizeof(float), 64) * 64);
            if (memory == nullptr) throw std::bad_alloc();
            memory_.reset(static_cast<float*>(memory));
            size_ = count;
        }
        return memory_.get();
    }

  private:
    struct Free {
        void operator()(float* memory) const { std::free(memory); }
    };
    std::unique_ptr<float, Free> memory_;
    size_t size_ = 0;
};

// The buffers of one thread, which are in use at the same time.
struct ThreadScratch {
    Scratch packed_a;    // packed rows of a GEMM
    Scratch acc;         // accumulators of a block of a GEMM
    Scratch widened;     // a slice of a panel of 8 bits, as float32
    Scratch tile;        // of attention
    Scratch kv;          // keys and values of attention without a paged cache
    Scratch qkv;         // queries, keys and values of a layer
    Scratch attended;    // output of attention
    Scratch gated;       // inner activations of a layer's MLP
    Scratch stored;      // rows of a weight as its file has them
    Scratch panel_rows;  // rows of a panel that is packed
    Scratch values;      // rows that are quantized, and their scales
};

// Initial-exec TLS: accessed without a function call, and allocated with the thread itself.
#if defined(__linux__)
#define GLM4V_STATIC_TLS __attribute__((tls_model("initial-exec")))
#else
#define GLM4V_STATIC_TLS
#endif
extern __thread ThreadScratch* own_scratch GLM4V_STATIC_TLS;

ThreadScratch& make_thread_scratch();

// The buffers of the calling thread.
inline ThreadScratch& thread_scratch() {
    return own_scratch != nullptr ? *own_scratch : make_thread_scratch();
}

}  // namespace glm4v
