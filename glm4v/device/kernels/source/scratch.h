// Memory that a thread keeps for its next call.
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

}  // namespace glm4v
