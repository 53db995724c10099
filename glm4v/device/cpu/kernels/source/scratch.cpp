#include "scratch.h"

#include <pthread.h>

namespace glm4v {
namespace {

// Made with the library: ends what a thread has kept, with the thread.
const pthread_key_t KEY = [] {
    pthread_key_t key;
    if (pthread_key_create(&key, [](void* kept) { delete static_cast<ThreadMemory*>(kept); }) != 0)
        throw std::bad_alloc();
    return key;
}();

}  // namespace

__thread ThreadMemory* own_memory GLM4V_STATIC_TLS = nullptr;

ThreadMemory& make_thread_memory() {
    auto made = std::make_unique<ThreadMemory>();
    if (pthread_setspecific(KEY, made.get()) != 0) throw std::bad_alloc();
    own_memory = made.release();
    return *own_memory;
}

}  // namespace glm4v
