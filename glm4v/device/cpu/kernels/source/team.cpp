#include "team.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <system_error>
#include <utility>

namespace glm4v {
namespace {

// state_ in parts: [job number | open | helpers in it]
constexpr uint64_t HELPER = 1;
constexpr uint64_t HELPERS = 0xffff;
constexpr uint64_t OPEN = 1 << 16;
constexpr uint64_t JOB = 1 << 17;

// Longer than the gaps between the products of a step, shorter than those between steps.
constexpr auto SPIN = std::chrono::microseconds(50);
constexpr int LOOKS_PER_CLOCK = 32;

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Looks until `done` or the time to spin is over; whether it was done.
template <class Done>
bool spin(const Done& done) {
    std::chrono::steady_clock::time_point end{};
    for (;;) {
        for (int look = 0; look < LOOKS_PER_CLOCK; look++) {
            if (done()) return true;
            relax();
        }
        const auto now = std::chrono::steady_clock::now();
        if (end == std::chrono::steady_clock::time_point{}) end = now + SPIN;
        if (now > end) return false;
    }
}

}  // namespace

Team::Team(int threads) : ranges_(std::max(threads, 1)) {
    try {
        helpers_.reserve(ranges_.size());
        for (int i = 1; i < threads; i++) helpers_.emplace_back([this, i] { help(i); });
    } catch (const std::system_error&) {  // no more threads
    } catch (const std::bad_alloc&) {
    }
}

Team::~Team() {
    {
        std::lock_guard<std::mutex> lock(sleep_);
        ending_ = true;
    }
    work_came_.notify_all();
    for (auto& helper : helpers_) helper.join();
}

void Team::run_job(Job job) {
    std::lock_guard<std::mutex> one(one_job_);
    job_ = job;
    for (int64_t i = 0; i < size(); i++) {
        ranges_[i].next.store(job.tasks * i / size(), std::memory_order_relaxed);
        ranges_[i].end = job.tasks * (i + 1) / size();
    }
    const uint64_t number = state_.load(std::memory_order_relaxed) & ~(OPEN | HELPERS);
    state_.store((number + JOB) | OPEN);
    if (sleepers_.load() > 0) {
        { std::lock_guard<std::mutex> lock(sleep_); }
        work_came_.notify_all();
    }
    do_tasks(0);
    state_.fetch_and(~OPEN);
    wait_for_helpers();
    if (has_failed_.exchange(false)) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void Team::wait_for_helpers() {
    const auto all_left = [this] { return (state_.load() & HELPERS) == 0; };
    if (spin(all_left)) return;
    std::unique_lock<std::mutex> lock(sleep_);
    caller_sleeps_ = true;
    helpers_left_.wait(lock, all_left);
    caller_sleeps_ = false;
}

// Nothing is thrown: the job's memory is the caller's, who must not leave before all helpers have.
void Team::do_tasks(int thread) {
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
        keep_failure();
    }
}

// Of the exception that is being handled.
void Team::keep_failure() {
    std::lock_guard<std::mutex> lock(failing_);
    if (failure_ == nullptr) failure_ = std::current_exception();
    has_failed_ = true;
}

void Team::help(int thread) {
    uint64_t seen = 0;
    while (!ending_) {
        const uint64_t joined = join(wait_for_job(seen));
        if (joined == 0) continue;
        seen = joined;
        do_tasks(thread);
        leave();
    }
}

// The state with a job that is open and not the one `seen` last; any state when the team ends.
uint64_t Team::wait_for_job(uint64_t seen) {
    uint64_t state = 0;
    const auto came = [&] {
        state = state_.load();
        return ((state & OPEN) && (state & ~(OPEN | HELPERS)) != seen) || ending_;
    };
    if (spin(came)) return state;
    std::unique_lock<std::mutex> lock(sleep_);
    sleepers_++;
    work_came_.wait(lock, came);
    sleepers_--;
    return state;
}

// The number of the job we are a helper of now, whose fields stay as they are till we leave; 0 when
// there is none any more.
uint64_t Team::join(uint64_t state) {
    while (state & OPEN) {
        if (state_.compare_exchange_weak(state, state + HELPER)) return state & ~(OPEN | HELPERS);
    }
    return 0;
}

void Team::leave() {
    const uint64_t left = state_.fetch_sub(HELPER) - HELPER;
    if ((left & (OPEN | HELPERS)) == 0 && caller_sleeps_) {
        { std::lock_guard<std::mutex> lock(sleep_); }
        helpers_left_.notify_one();
    }
}

namespace {

std::mutex making;
std::shared_ptr<Team> current;
int wanted = 1;

// Threads do not live on in a forked child: what is left of the team is nobody's.
void forget() {
    new (&making) std::mutex;
    new (&current) std::shared_ptr<Team>;
}

}  // namespace

std::shared_ptr<Team> team() {
    std::lock_guard<std::mutex> lock(making);
    if (current == nullptr) {
        static const int registered = pthread_atfork(nullptr, nullptr, forget);
        (void)registered;
        current = std::make_shared<Team>(wanted);
    }
    return current;
}

void set_team_size(int threads) {
    std::shared_ptr<Team> old;  // ends when the lock is gone
    std::lock_guard<std::mutex> lock(making);
    wanted = threads;
    if (current != nullptr && current->size() != threads) old.swap(current);
}

}  // namespace glm4v
