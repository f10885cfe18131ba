#include <cstring>
#include <vector>

#include "common.h"
#include "kernels.h"
#include "parallel.h"

// Picks tokens without sorting a vocabulary. Probabilities are numbers from 0 to 1, so their bits are in their order:
// three passes over runs of bits, from the highest down, find the last probability that is kept.
namespace ostro {
namespace {

constexpr int kLevels = 3;
constexpr int kShift[kLevels] = {19, 7, 0}, kBits[kLevels] = {13, 12, 7};

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

struct Filters {
    double top_k, top_p, min_p;
};

// What a row keeps: everything above `least`, and of what equals it the first `ties` by token id.
struct Kept {
    float least;
    int64_t ties;
};

// The largest bits of all. Those of numbers from 0 to 2 are at most kTwo; a NaN's or a negative number's are above.
constexpr uint32_t kTwo = 0x40000000;

OSTRO_CLONES uint32_t most_bits(const float *p, int64_t count) {
    const uint32_t *bits = reinterpret_cast<const uint32_t *>(p);
    uint32_t most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < count; ++i) most = bits[i] > most ? bits[i] : most;
    return most;
}

// A sum in eight lanes: a chain of additions would wait for each other.
OSTRO_CLONES double sum_of(const float *p, int64_t count) {
    double lanes[8] = {};
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int k = 0; k < 8; ++k) lanes[k] += static_cast<double>(p[i + k]);
    double sum = 0;
    for (; i < count; ++i) sum += static_cast<double>(p[i]);
    for (double lane : lanes) sum += lane;
    return sum;
}

Kept cut(const float *p, int64_t count, const Filters &filters, float floor) {
    const double k = filters.top_k > 0 ? filters.top_k : static_cast<double>(count);
    const double mass_limit = filters.top_p < 1 ? filters.top_p : 2.0;
    static thread_local std::vector<int64_t> number;
    static thread_local std::vector<double> mass;
    int64_t taken = 0;    // tokens above the run that is looked at
    double before = 0;    // and their probability
    uint32_t prefix = 0;  // the bits that have been decided
    for (int level = 0; level < kLevels; ++level) {
        const uint32_t buckets = 1u << kBits[level], mask = buckets - 1;
        const int above = kShift[level] + kBits[level];
        number.assign(buckets, 0), mass.assign(buckets, 0.0);
        for (int64_t i = 0; i < count; ++i) {
            const uint32_t bits = bits_of(p[i]);
            if (above < 32 && bits >> above != prefix) continue;
            const uint32_t bucket = bits >> kShift[level] & mask;
            ++number[bucket], mass[bucket] += static_cast<double>(p[i]);
        }
        // The bucket in which a limit is reached; the lowest that holds anything where none is.
        int64_t lowest = 0;
        while (lowest < buckets && !number[static_cast<size_t>(lowest)]) ++lowest;
        uint32_t chosen = 0;
        for (int64_t bucket = buckets - 1; bucket >= 0; --bucket) {
            const size_t at = static_cast<size_t>(bucket);
            if (!number[at]) continue;
            chosen = static_cast<uint32_t>(bucket);
            if (static_cast<double>(taken + number[at]) >= k || before + mass[at] >= mass_limit) break;
            if (bucket == lowest) break;
            taken += number[at], before += mass[at];
        }
        prefix = prefix << kBits[level] | chosen;
    }
    float least;
    std::memcpy(&least, &prefix, 4);
    // Of equals, as many as there is room for.
    int64_t ties = 0;
    double sum = before;
    for (int64_t i = 0; i < count; ++i)
        if (p[i] == least && static_cast<double>(taken + ties) < k && sum < mass_limit) ++ties, sum += static_cast<double>(p[i]);
    if (least < floor || least <= 0) {
        // min-p cuts higher up; nothing of probability 0 is ever kept.
        const float limit = floor > 0 ? floor : 0;
        float lowest = 2;
        for (int64_t i = 0; i < count; ++i)
            if (p[i] > 0 && p[i] >= limit && p[i] < lowest) lowest = p[i];
        if (lowest < 2 && lowest > least) return {lowest, count};
    }
    return {least, ties};
}

// Runs that are skipped as a whole when a draw is looked for.
constexpr int64_t kRun = 512;

int64_t invert_all(const float *p, int64_t count, double draw) {
    static thread_local std::vector<double> sums;
    sums.clear();
    double total = 0;
    for (int64_t at = 0; at < count; at += kRun) {
        sums.push_back(sum_of(p + at, at + kRun < count ? kRun : count - at));
        total += sums.back();
    }
    const double target = draw * total;
    double before = 0;
    int64_t last = count - 1;
    for (size_t run = 0; run < sums.size(); ++run) {
        if (!(before + sums[run] > target)) {
            before += sums[run];
            continue;
        }
        const int64_t begin = static_cast<int64_t>(run) * kRun, end = begin + kRun < count ? begin + kRun : count;
        double sum = before;
        for (int64_t i = begin; i < end; ++i) {
            if (!(p[i] > 0)) continue;
            sum += static_cast<double>(p[i]), last = i;
            if (sum > target) return i;
        }
        return last;  // The lanes' sum was a rounding above that of the chain.
    }
    return last;
}

int64_t invert_kept(const float *p, int64_t count, double draw, const Kept &kept) {
    double total = 0;
    int64_t ties = kept.ties;
    for (int64_t i = 0; i < count; ++i)
        if (p[i] > kept.least || (p[i] == kept.least && ties-- > 0)) total += static_cast<double>(p[i]);
    const double target = draw * total;
    double sum = 0;
    ties = kept.ties;
    for (int64_t i = 0; i < count; ++i) {
        if (!(p[i] > kept.least || (p[i] == kept.least && ties-- > 0))) continue;
        sum += static_cast<double>(p[i]);
        if (sum > target) return i;
    }
    return count - 1;
}

// Tokens that may be kept, in the order of their ids. Nearly all of a vocabulary is far less likely than the best, so
// those within a factor are looked at first; more where they do not reach the limits.
struct Candidates {
    std::vector<float> probs;
    std::vector<int64_t> ids;
};

constexpr float kFactors[] = {1e-3f, 1e-5f, 1e-7f};

int64_t pick_kept(const float *p, int64_t count, double draw, const Filters &filters, float best) {
    static thread_local Candidates found;
    // min_p as a float32 product, as the comparison of the reference is.
    const float floor = static_cast<float>(filters.min_p) * best;
    for (float factor : kFactors) {
        const float least = factor * best > floor ? factor * best : floor;
        found.probs.clear(), found.ids.clear();
        double mass = 0;
        for (int64_t i = 0; i < count; ++i)
            if (p[i] >= least) found.probs.push_back(p[i]), found.ids.push_back(i), mass += static_cast<double>(p[i]);
        const int64_t size = static_cast<int64_t>(found.ids.size());
        // Beyond rounding, so that the last candidate is not what a limit falls on.
        const bool enough = least == floor || (filters.top_k > 0 && static_cast<double>(size) > filters.top_k) ||
                            (filters.top_p < 1 && mass > filters.top_p + 1e-6);
        if (!enough || least <= 0) continue;
        const Kept kept = cut(found.probs.data(), size, filters, floor);
        return found.ids[static_cast<size_t>(invert_kept(found.probs.data(), size, draw, kept))];
    }
    return invert_kept(p, count, draw, cut(p, count, filters, floor));
}

}  // namespace

void pick_tokens(uintptr_t tokens, uintptr_t probs, int64_t stride, uintptr_t draws, uintptr_t filters, int64_t rows,
                 int64_t vocabulary) {
    parallel_for(rows, vocabulary * 4, [=](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const float *p = reinterpret_cast<const float *>(probs) + row * stride;
            const double *f = reinterpret_cast<const double *>(filters) + 3 * row;
            const double draw = reinterpret_cast<const double *>(draws)[row];
            const uint32_t most = most_bits(p, vocabulary);
            int64_t token = vocabulary - 1;
            if (most <= kTwo) {
                float best;
                std::memcpy(&best, &most, 4);
                const bool whole = f[0] <= 0 && f[1] >= 1 && f[2] <= 0;
                token = whole ? invert_all(p, vocabulary, draw)
                              : pick_kept(p, vocabulary, draw, Filters{f[0], f[1], f[2]}, best);
            }
            reinterpret_cast<int64_t *>(tokens)[row] = token;
        }
    });
}

}  // namespace ostro
