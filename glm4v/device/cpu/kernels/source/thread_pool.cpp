#include "thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <system_error>
#include <utility>

namespace glm4v {
namespace {

// Layout of state_: [job number | open | workers inside]
constexpr uint64_t WORKER = 1;
constexpr uint64_t WORKERS = 0xffff;
constexpr uint64_t OPEN = 1 << 16;
constexpr uint64_t JOB = 1 << 17;

// Longer than the gaps between the GEMMs of a step, shorter than those between steps.
constexpr auto SPIN_TIME = std::chrono::microseconds(50);
constexpr int POLLS_PER_CLOCK_READ = 32;

inline void cpu_pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Polls `done` for SPIN_TIME; returns whether it became true.
template <class Done>
bool spin(const Done& done) {
    std::chrono::steady_clock::time_point end{};
    for (;;) {
        for (int poll = 0; poll < POLLS_PER_CLOCK_READ; poll++) {
            if (done()) return true;
            cpu_pause();
        }
        const auto now = std::chrono::steady_clock::now();
        if (end == std::chrono::steady_clock::time_point{}) end = now + SPIN_TIME;
        if (now > end) return false;
    }
}

}  // namespace

ThreadPool::ThreadPool(int threads) : ranges_(std::max(threads, 1)) {
    try {
        workers_.reserve(ranges_.size());
        for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { worker_loop(i); });
    } catch (const std::system_error&) {  // the system creates no more threads
    } catch (const std::bad_alloc&) {
    }
}

ThreadPool::~ThreadPool() {
    {
        std::lock_guard<std::mutex> lock(sleep_mutex_);
        stopping_ = true;
    }
    job_ready_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void ThreadPool::run_job(Job job) {
    std::lock_guard<std::mutex> one(run_mutex_);
    job_ = job;
    for (int64_t i = 0; i < size(); i++) {
        ranges_[i].next.store(job.tasks * i / size(), std::memory_order_relaxed);
        ranges_[i].end = job.tasks * (i + 1) / size();
    }
    const uint64_t number = state_.load(std::memory_order_relaxed) & ~(OPEN | WORKERS);
    state_.store((number + JOB) | OPEN);
    if (sleeping_workers_.load() > 0) {
        { std::lock_guard<std::mutex> lock(sleep_mutex_); }
        job_ready_.notify_all();
    }
    run_tasks(0);
    state_.fetch_and(~OPEN);
    wait_for_workers();
    if (has_failed_.exchange(false))
        std::rethrow_exception(std::exchange(first_exception_, nullptr));
}

void ThreadPool::wait_for_workers() {
    const auto all_left = [this] { return (state_.load() & WORKERS) == 0; };
    if (spin(all_left)) return;
    std::unique_lock<std::mutex> lock(sleep_mutex_);
    caller_sleeps_ = true;
    workers_left_.wait(lock, all_left);
    caller_sleeps_ = false;
}

// Does not throw: the job lives on the caller's stack, which must stay until all workers have left.
void ThreadPool::run_tasks(int thread) {
    const Job job = job_;
    try {
        for (int i = 0; i < size(); i++) {
            Range& range = ranges_[(thread + i) % size()];
            while (!has_failed_.load(std::memory_order_relaxed)) {
                const int64_t task = range.next.fetch_add(1, std::memory_order_relaxed);
                if (task >= range.end) break;
                job.call(job.work, task);
            }
        }
    } catch (...) {
        record_exception();
    }
}

// Called while the exception is being handled.
void ThreadPool::record_exception() {
    std::lock_guard<std::mutex> lock(exception_mutex_);
    if (first_exception_ == nullptr) first_exception_ = std::current_exception();
    has_failed_ = true;
}

void ThreadPool::worker_loop(int thread) {
    uint64_t last = 0;
    while (!stopping_) {
        const uint64_t entered = enter_job(wait_for_job(last));
        if (entered == 0) continue;
        last = entered;
        run_tasks(thread);
        leave_job();
    }
}

// Returns the state once a job other than `last` is open, or any state when the pool stops.
uint64_t ThreadPool::wait_for_job(uint64_t last) {
    uint64_t state = 0;
    const auto is_ready = [&] {
        state = state_.load();
        return ((state & OPEN) && (state & ~(OPEN | WORKERS)) != last) || stopping_;
    };
    if (spin(is_ready)) return state;
    std::unique_lock<std::mutex> lock(sleep_mutex_);
    sleeping_workers_++;
    job_ready_.wait(lock, is_ready);
    sleeping_workers_--;
    return state;
}

// Counts the calling worker into the open job and returns its number; 0 when it has closed. The
// job's fields do not change until the worker leaves it.
uint64_t ThreadPool::enter_job(uint64_t state) {
    while (state & OPEN) {
        if (state_.compare_exchange_weak(state, state + WORKER)) return state & ~(OPEN | WORKERS);
    }
    return 0;
}

void ThreadPool::leave_job() {
    const uint64_t left = state_.fetch_sub(WORKER) - WORKER;
    if ((left & (OPEN | WORKERS)) == 0 && caller_sleeps_) {
        { std::lock_guard<std::mutex> lock(sleep_mutex_); }
        workers_left_.notify_one();
    }
}

namespace {

std::mutex pool_mutex;
std::shared_ptr<ThreadPool> pool;
int num_threads = 1;

// A forked child has none of the parent's threads: it abandons the pool instead of destroying it.
void reset_after_fork() {
    new (&pool_mutex) std::mutex;
    new (&pool) std::shared_ptr<ThreadPool>;
}

}  // namespace

std::shared_ptr<ThreadPool> thread_pool() {
    std::lock_guard<std::mutex> lock(pool_mutex);
    if (pool == nullptr) {
        static const int registered = pthread_atfork(nullptr, nullptr, reset_after_fork);
        (void)registered;
        pool = std::make_shared<ThreadPool>(num_threads);
    }
    return pool;
}

void set_num_threads(int threads) {
    std::shared_ptr<ThreadPool> old;  // destroyed after the lock is released
    std::lock_guard<std::mutex> lock(pool_mutex);
    num_threads = threads;
    if (pool != nullptr && pool->size() != threads) old.swap(pool);
}

}  // namespace glm4v
