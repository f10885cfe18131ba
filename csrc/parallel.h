// One thread pool owns the cores: PyTorch's OpenMP threads where they are loaded, else a pool of our own.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

namespace ostro {

using RangeFn = void (*)(void *context, int64_t begin, int64_t end);

// Calls fn over disjoint ranges that cover [0, n), on several threads if n * cost is worth it.
// cost: rough nanoseconds an item.
void parallel_ranges(int64_t n, int64_t cost, void *context, RangeFn fn);

template <class F>
void parallel_for(int64_t n, int64_t cost, F &&body) {
    parallel_ranges(n, cost, &body, [](void *context, int64_t begin, int64_t end) {
        (*static_cast<std::remove_reference_t<F> *>(context))(begin, end);
    });
}

// "openmp (shared)" or "own".
const char *pool_name();
int pool_threads();

// Calls body(next) on several threads if n * cost is worth it; next() gives 0, 1, … in turn, n and more when all is
// handed out. For items of unequal cost.
template <class F>
void parallel_tasks(int64_t n, int64_t cost, F &&body) {
    std::atomic<int64_t> counter{0};
    auto next = [&counter] { return counter.fetch_add(1, std::memory_order_relaxed); };
    int64_t threads = n < pool_threads() ? n : pool_threads();
    parallel_for(threads, n * cost / (threads > 0 ? threads : 1), [&](int64_t, int64_t) { body(next); });
}

// As parallel_for, but each thread takes runs of items until all are taken, each run a share of what is left. Threads that
// read memory go at different speeds, and neighbours of this machine take time from one of them: so all end together.
template <class F>
void parallel_runs(int64_t n, int64_t cost, F &&body) {
    const int64_t threads = pool_threads();
    if (threads < 2 || n < 4 * threads) return parallel_for(n, cost, body);
    std::atomic<int64_t> taken{0};
    parallel_for(threads, n * cost / threads, [&](int64_t, int64_t) {
        int64_t begin = taken.load(std::memory_order_relaxed);
        while (begin < n) {
            const int64_t share = (n - begin) / (2 * threads), end = begin + (share > 0 ? share : 1);
            if (!taken.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
            body(begin, end);
            begin = taken.load(std::memory_order_relaxed);
        }
    });
}

}  // namespace ostro
