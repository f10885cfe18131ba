#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "common.h"
#include "kernels.h"
#include "packed_linear.h"
#include "parallel.h"

namespace ostro {
namespace {

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

OSTRO_CLONES uint64_t sum_words(const uint64_t *words, int64_t begin, int64_t end) {
    // Prefetched well ahead, as kernels read: the processor's own prefetch stops at the end of each 4 KiB, and the roof
    // would be a tenth too low.
    constexpr int64_t kLine = 8, kBlock = 4 * kLine, kAhead = 1024;
    uint64_t sum = 0;
    int64_t i = begin;
    for (; i + kBlock <= end; i += kBlock) {
        for (int64_t line = 0; line < kBlock; line += kLine) __builtin_prefetch(words + i + line + kAhead);
        for (int64_t j = 0; j < kBlock; ++j) sum += words[i + j];
    }
    for (; i < end; ++i) sum += words[i];
    return sum;
}

typedef float lanes __attribute__((vector_size(64)));

// Enough chains that each waits for none but itself.
OSTRO_CLONES int64_t multiply_floats(int64_t rounds, float *seen) {
    constexpr int kChains = 10;
    lanes sum[kChains] = {}, factor = {}, one = {};
    factor += 0.5f, one += 1.0f;
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 10
        for (int k = 0; k < kChains; ++k) sum[k] = sum[k] * factor + one;
    }
    for (int k = 0; k < kChains; ++k) *seen += sum[k][0];
    return rounds * kChains * 16 * 2;
}

template <class F>
double best_rate(F &&work) {
    double best = 0.0;
    for (int round = 0; round < 5; ++round) {
        std::atomic<int64_t> operations{0};
        double started = now();
        parallel_for(pool_threads(), 1 << 30, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) operations += work();
        });
        double rate = static_cast<double>(operations.load()) / (now() - started);
        best = rate > best ? rate : best;
    }
    return best;
}

}  // namespace

double read_bandwidth(int64_t bytes) {
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> lock(one_at_a_time);
    static uint64_t *words = nullptr;
    static int64_t size = 0;
    if (size < bytes) {
        std::free(words);
        constexpr int64_t kLarge = int64_t{1} << 21;
        words = static_cast<uint64_t *>(std::aligned_alloc(kLarge, static_cast<size_t>((bytes + kLarge - 1) / kLarge * kLarge)));
        size = words ? bytes : 0;
        if (!words) return 0.0;
        // In large pages, as panels are: a roof measured on small ones is lower than what kernels reach.
        advise_large_pages(reinterpret_cast<uintptr_t>(words), bytes);
        std::memset(words, 1, static_cast<size_t>(bytes));
    }
    double best = 0.0;
    for (int round = 0; round < 3; ++round) {
        std::atomic<uint64_t> total{0};
        double started = now();
        parallel_for(bytes / 8, 1, [&](int64_t begin, int64_t end) { total += sum_words(words, begin, end); });
        double rate = static_cast<double>(bytes) / (now() - started);
        if (total.load() && rate > best) best = rate;
    }
    return best;
}

double multiply_rate() {
    const auto multiply = packed_kernels().multiply;
    if (!multiply) return 0.0;
    return best_rate([=] { return multiply(1 << 20); });
}

double float_rate() {
    return best_rate([] {
        float seen = 0.0f;
        int64_t operations = multiply_floats(1 << 20, &seen);
        return seen > 0.0f ? operations : 0;  // always so, and not known to the compiler
    });
}

}  // namespace ostro
