#include "parallel.h"

#include <dlfcn.h>

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace ostro {
namespace {

// A region cheaper than this (nanoseconds) is not worth waking anyone for.
constexpr int64_t kWorthThreads = 20000;

// Two pools would spin against each other on the same cores, so the GNU OpenMP runtime that PyTorch brought
// is used through its two entry points, found by name: nothing is linked against.
struct OpenMP {
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned) = nullptr;
    int (*thread_num)() = nullptr;
    int (*num_threads)() = nullptr;
    int (*max_threads)() = nullptr;

    OpenMP() {
        parallel = reinterpret_cast<decltype(parallel)>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
        thread_num = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
        num_threads = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"));
        max_threads = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
    }
    bool usable() const { return parallel && thread_num && num_threads && max_threads; }
};

const OpenMP &openmp() {
    static OpenMP runtime;
    return runtime;
}

class Pool {
  public:
    static Pool &get() {
        static Pool *pool = new Pool;  // Never destroyed: threads may outlive static destructors.
        return *pool;
    }

    int size() const { return static_cast<int>(workers_.size()) + 1; }


    void run(int64_t n, void *context, RangeFn fn) {
        std::lock_guard<std::mutex> callers(callers_);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            n_ = n, context_ = context, fn_ = fn;
            pending_ = static_cast<int>(workers_.size());
            ++generation_;
        }
        wake_.notify_all();
        part(0);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return pending_ == 0; });
    }

  private:
    Pool() {
        int wanted = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
        while (size() < wanted) {
            int index = size();
            workers_.emplace_back([this, index] { work(index); });
            workers_.back().detach();
        }
    }

    void part(int index) {
        int64_t threads = size();
        int64_t begin = n_ * index / threads, end = n_ * (index + 1) / threads;
        if (begin < end) fn_(context_, begin, end);
    }

    void work(int index) {
        uint64_t seen = 0;
        for (;;) {
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return generation_ != seen; });
                seen = generation_;
            }
            part(index);
            std::lock_guard<std::mutex> lock(mutex_);
            if (--pending_ == 0) done_.notify_one();
        }
    }

    std::vector<std::thread> workers_;
    std::mutex callers_, mutex_;
    std::condition_variable wake_, done_;
    uint64_t generation_ = 0;
    int pending_ = 0;
    int64_t n_ = 0;
    void *context_ = nullptr;
    RangeFn fn_ = nullptr;
};

struct Region {
    int64_t n;
    void *context;
    RangeFn fn;
};

void openmp_body(void *data) {
    const Region &region = *static_cast<Region *>(data);
    int64_t index = openmp().thread_num(), threads = openmp().num_threads();
    int64_t begin = region.n * index / threads, end = region.n * (index + 1) / threads;
    if (begin < end) region.fn(region.context, begin, end);
}

}  // namespace

void parallel_ranges(int64_t n, int64_t cost, void *context, RangeFn fn) {
    if (n <= 0) return;
    if (n == 1 || n * cost < kWorthThreads) return fn(context, 0, n);
    if (openmp().usable()) {
        int threads = static_cast<int>(std::min<int64_t>(openmp().max_threads(), n));
        if (threads < 2) return fn(context, 0, n);
        Region region{n, context, fn};
        openmp().parallel(openmp_body, &region, static_cast<unsigned>(threads), 0);
        return;
    }
    if (Pool::get().size() < 2) return fn(context, 0, n);
    Pool::get().run(n, context, fn);
}

const char *pool_name() { return openmp().usable() ? "openmp (shared with torch)" : "own threads"; }

int pool_threads() { return openmp().usable() ? openmp().max_threads() : Pool::get().size(); }

}  // namespace ostro
