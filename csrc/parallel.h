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

// As parallel_for, but in several runs of items a thread, handed out one by one: a core that a neighbour of this machine
// takes time from then holds up nobody.
template <class F>
void parallel_pieces(int64_t n, int64_t cost, F &&body) {
    constexpr int64_t kPiecesPerThread = 8;
    const int64_t threads = pool_threads(), pieces = threads > 1 && n > threads * kPiecesPerThread ? threads * kPiecesPerThread : 1;
    if (pieces == 1) return parallel_for(n, cost, body);
    parallel_tasks(pieces, cost * n / pieces, [&](auto &&next) {
        for (int64_t piece = next(); piece < pieces; piece = next()) body(n * piece / pieces, n * (piece + 1) / pieces);
    });
}

}  // namespace ostro
