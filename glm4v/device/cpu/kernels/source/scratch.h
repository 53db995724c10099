// Memory that a thread keeps for its next call.
//
// Not by `thread_local`: where memory has run out, C++ has no way to say that such a variable, or
// the call of its destructor, could not be made, and the process ends.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace glm4v {

inline int64_t up(int64_t count, int64_t part) { return (count + part - 1) / part; }

class Scratch {
  public:
    // `count` floats, aligned to lines of the cache; what they held is lost.
    float* floats(size_t count) {
        if (count > size_) {
            memory_.reset();
            size_ = 0;
            void* memory = std::aligned_alloc(64, up(count * sizeof(float), 64) * 64);
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

// What is kept beside each other.
struct ThreadMemory {
    Scratch tiles;     // rows laid out for a product
    Scratch sums;      // of a product's part
    Scratch tile;      // of attention
    Scratch cache;     // keys and values of attention without a paged cache
    Scratch heads;     // queries, keys and values of a layer
    Scratch attended;  // what attention makes of them
    Scratch gated;     // inside of a layer's MLP
};

// Found without a call, and in the part of a thread's memory that is there from its start.
#if defined(__linux__)
#define GLM4V_STATIC_TLS __attribute__((tls_model("initial-exec")))
#else
#define GLM4V_STATIC_TLS
#endif
extern __thread ThreadMemory* own_memory GLM4V_STATIC_TLS;

ThreadMemory& make_thread_memory();

// That of the thread that asks.
inline ThreadMemory& thread_memory() {
    return own_memory != nullptr ? *own_memory : make_thread_memory();
}

}  // namespace glm4v
