#include "scratch.h"

#include <pthread.h>

namespace glm4v {
namespace {

// Made with the library; its values end with their threads.
const pthread_key_t KEY = [] {
    pthread_key_t key;
    if (pthread_key_create(&key, [](void* kept) { delete static_cast<ThreadMemory*>(kept); }) != 0)
        throw std::bad_alloc();
    return key;
}();

}  // namespace

ThreadMemory& thread_memory() {
    auto* kept = static_cast<ThreadMemory*>(pthread_getspecific(KEY));
    if (kept != nullptr) return *kept;
    auto made = std::make_unique<ThreadMemory>();
    if (pthread_setspecific(KEY, made.get()) != 0) throw std::bad_alloc();
    return *made.release();
}

}  // namespace glm4v
