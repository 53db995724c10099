#include "scratch.h"

#include <pthread.h>

namespace glm4v {
namespace {

// Created when the library is loaded; its destructor frees a thread's buffers when the thread ends.
const pthread_key_t KEY = [] {
    pthread_key_t key;
    if (pthread_key_create(&key, [](void* kept) { delete static_cast<ThreadScratch*>(kept); }) != 0)
        throw std::bad_alloc();
    return key;
}();

}  // namespace

__thread ThreadScratch* own_scratch GLM4V_STATIC_TLS = nullptr;

ThreadScratch& make_thread_scratch() {
    auto made = std::make_unique<ThreadScratch>();
    if (pthread_setspecific(KEY, made.get()) != 0) throw std::bad_alloc();
    own_scratch = made.release();
    return *own_scratch;
}

}  // namespace glm4v
