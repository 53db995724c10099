// A thread pool of the library's own: torch brings OpenMP's, and two pools that spin would compete
// for the cores.
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

// Runs the tasks 0 ... n-1 of one job at a time, by work stealing.
//
// Each thread starts on its own contiguous range, so that it reads memory in one stream, and then
// steals from the ranges of the others. The calling thread works too. At the end it waits only for
// workers that have entered the job: a worker that sleeps, or is descheduled, delays nobody.
class ThreadPool {
  public:
    // Starts threads - 1 workers, or fewer where the system refuses to create threads.
    explicit ThreadPool(int threads);
    ~ThreadPool();

    int size() const { return static_cast<int>(ranges_.size()); }

    // Calls work(task) for all tasks and returns when they are done. After an exception, tasks that
    // have not started are skipped; the first exception is rethrown here once no thread is inside
    // `work`.
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
    void run_tasks(int thread);
    void record_exception();
    void wait_for_workers();
    void worker_loop(int thread);
    uint64_t wait_for_job(uint64_t last);
    uint64_t enter_job(uint64_t state);
    void leave_job();

    Job job_{};
    std::mutex run_mutex_;  // one job at a time
    std::atomic<bool> has_failed_{false};
    std::mutex exception_mutex_;
    std::exception_ptr first_exception_;
    // Job number, whether it is open, workers inside it: see thread_pool.cpp.
    alignas(64) std::atomic<uint64_t> state_{0};
    alignas(64) std::atomic<int> sleeping_workers_{0};
    std::atomic<bool> caller_sleeps_{false};
    std::atomic<bool> stopping_{false};
    std::mutex sleep_mutex_;
    std::condition_variable job_ready_;
    std::condition_variable workers_left_;
    std::vector<Range> ranges_;  // of tasks, one per thread
    std::vector<std::thread> workers_;
};

// The pool of this process; a forked child creates its own. A pool that is replaced is destroyed
// after its last job.
std::shared_ptr<ThreadPool> thread_pool();

// Sets the number of threads from the next job on.
void set_num_threads(int threads);

}  // namespace glm4v
