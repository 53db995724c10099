// The library's own threads: torch brings OpenMP's, and two pools that spin would fight for cores.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace glm4v {

// Runs the tasks 0 ... n-1 of one job at a time.
//
// Each thread begins with a range of its own, so that it reads memory in one stream, and then helps
// with the others'. The caller works too, and at the end waits only for helpers that have begun: one
// that sleeps, or that the system keeps from its core, delays nobody.
class Team {
  public:
    // With fewer helpers where the system gives no more threads: the others do their part.
    explicit Team(int threads);
    ~Team();

    int size() const { return static_cast<int>(ranges_.size()); }

    // Calls work(task) for all tasks and returns when they are done. When calls throw, tasks that
    // have not begun are left out, and the first exception is thrown again when no thread is in
    // `work` any more.
    template <class Work>
    void run(int64_t tasks, const Work& work) {
        if (tasks <= 1 || size() == 1) {
            for (int64_t task = 0; task < tasks; task++) work(task);
            return;
        }
        run_job({tasks, &work, [](const void* self, int64_t task) {
                     (*static_cast<const Work*>(self))(task);
                 }});
    }

  private:
    struct Job {
        int64_t tasks;
        const void* work;
        void (*call)(const void* work, int64_t task);
    };

    struct alignas(64) Range {
        std::atomic<int64_t> next{0};
        int64_t end = 0;
    };

    void run_job(Job job);
    void do_tasks(int thread);
    void keep_failure();
    void wait_for_helpers();
    void help(int thread);
    uint64_t wait_for_job(uint64_t seen);
    uint64_t join(uint64_t state);
    void leave();

    Job job_{};
    std::mutex one_job_;
    std::atomic<bool> has_failed_{false};  // the job
    std::mutex failing_;
    std::exception_ptr failure_;  // its first
    // Job number, whether it may be joined, helpers in it: see team.cpp.
    alignas(64) std::atomic<uint64_t> state_{0};
    alignas(64) std::atomic<int> sleepers_{0};
    std::atomic<bool> caller_sleeps_{false};
    std::atomic<bool> ending_{false};
    std::mutex sleep_;
    std::condition_variable work_came_;
    std::condition_variable helpers_left_;
    std::vector<Range> ranges_;  // of tasks, one a thread
    std::vector<std::thread> helpers_;
};

// The team of this process; a forked child gets one of its own. One that is replaced lives on until
// its last job is done.
std::shared_ptr<Team> team();

// How many threads it has from the next job on.
void set_team_size(int threads);

}  // namespace glm4v
