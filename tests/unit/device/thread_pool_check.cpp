// Jobs whose tasks throw: the exception is rethrown where the job was started, once no thread works
// on it, and the pool can be used again.
#include <atomic>
#include <cstdio>
#include <new>
#include <stdexcept>
#include <vector>

#include "thread_pool.h"

using namespace glm4v;

namespace {

constexpr int THREADS = 4, JOBS = 3000, TASKS = 64;
int wrong = 0;

void check(bool holds, const char* what, int job) {
    if (!holds && wrong++ < 10) std::printf("job %d: %s\n", job, what);
}

// One job on the caller's stack, of which some tasks fail; `first` is the first that does.
void run(ThreadPool& pool, int job, int first) {
    std::atomic<int> inside{0}, done{0};
    std::vector<int> seen(TASKS, 0);  // gone when this returns
    bool was_thrown = false;
    try {
        pool.run(TASKS, [&](int64_t task) {
            inside++;
            struct Leave {
                std::atomic<int>& inside;
                ~Leave() { inside--; }
            } leave{inside};
            for (volatile int spin = 0; spin < 200; spin = spin + 1) {
            }
            seen[task]++;
            if (first >= 0 && task >= first) throw std::bad_alloc();
            done++;
        });
    } catch (const std::bad_alloc&) {
        was_thrown = true;
    }
    check(inside == 0, "a thread is still at work", job);
    check(was_thrown == (first >= 0), "an exception is missing, or too many", job);
    if (first < 0) check(done == TASKS, "tasks are missing", job);
    for (int times : seen) check(times <= 1, "a task was done twice", job);
}

}  // namespace

int main() {
    ThreadPool pool(THREADS);
    for (int job = 0; job < JOBS; job++) run(pool, job, job % 3 == 0 ? -1 : job * 7 % TASKS);
    std::printf("%d jobs, %d wrong\n", JOBS, wrong);
    return wrong != 0;
}
