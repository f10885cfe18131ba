// The body of the attention kernels. A file for one instruction set defines OSTRO_WIDTH (floats in a vector),
// OSTRO_VECTORS (of query rows that are worked on together), OSTRO_KEYS and OSTRO_DIMS (how many keys, and output
// dimensions, share a load), and includes this.
//
// Online softmax (Milakov & Gimelshein 2018, arXiv:1805.02867), 32 cache positions at a time. With many query rows the
// rows are the lanes of vectors: keys and values are broadcast as they lie, and no sum goes across lanes. With the few
// rows of one token, dimensions are the lanes.
#include <cmath>
#include <cstring>

#include "attention.h"
#include "half.h"

namespace ostro {
namespace {

constexpr int64_t kTile = 32;
constexpr int kW = OSTRO_WIDTH;
typedef float vec __attribute__((vector_size(4 * OSTRO_WIDTH)));
typedef int32_t ivec __attribute__((vector_size(4 * OSTRO_WIDTH)));

#define OSTRO_BODY static inline __attribute__((always_inline))

OSTRO_BODY vec load_vec(const float *p) {
    vec value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

OSTRO_BODY void store_vec(float *p, vec value) { std::memcpy(p, &value, sizeof value); }

OSTRO_BODY vec spread(float value) { return value - vec{}; }

OSTRO_BODY vec larger(vec a, vec b) { return a > b ? a : b; }

// e^x as in common.h: 2^n p(r) with Cephes' polynomial, clamped to [-87, 88]; a NaN stays one.
OSTRO_BODY vec exp_vec(vec x) {
    x = x < spread(-87.0f) ? spread(-87.0f) : x;
    x = x > spread(88.0f) ? spread(88.0f) : x;
    vec t = x * 1.44269504088896341f;
    ivec n = __builtin_convertvector(t + (t >= 0.0f ? spread(0.5f) : spread(-0.5f)), ivec);
    vec nf = __builtin_convertvector(n, vec);
    vec r = x - nf * 0.693359375f;
    r = r + nf * 2.12194440e-4f;
    vec p = spread(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec bits = (n + 127) << 23;
    vec power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

// One row of the cache as floats; what fills up the last vector is 0.
OSTRO_BODY void widen(float *out, const uint8_t *row, int64_t dim, int64_t padded, KVType kv) {
    int64_t d = 0;
    if (kv == KVType::f32) {
        std::memcpy(out, row, static_cast<size_t>(4 * dim));
        d = dim;
    } else if (kv == KVType::bf16) {
        const uint16_t *from = reinterpret_cast<const uint16_t *>(row);
#pragma omp simd
        for (int64_t i = 0; i < dim; ++i) {
            uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
            std::memcpy(out + i, &bits, 4);
        }
        d = dim;
    } else if (kv == KVType::f16) {
        const uint16_t *from = reinterpret_cast<const uint16_t *>(row);
#if OSTRO_WIDTH == 16
        for (; d + 16 <= dim; d += 16)
            _mm512_storeu_ps(out + d, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from + d))));
#elif OSTRO_WIDTH == 8
        for (; d + 8 <= dim; d += 8)
            _mm256_storeu_ps(out + d, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from + d))));
#endif
        for (; d < dim; ++d) out[d] = half_to_float(from[d]);
    } else {
        const int8_t *from = reinterpret_cast<const int8_t *>(row);
        float scale;
        std::memcpy(&scale, row + dim, 4);
#pragma omp simd
        for (int64_t i = 0; i < dim; ++i) out[i] = static_cast<float>(from[i]) * scale;
        d = dim;
    }
    for (; d < padded; ++d) out[d] = 0.0f;
}

// Keys and values of `count` positions from `base` on; those of the next tile, up to position `last`, are fetched.
OSTRO_BODY void widen_tile(float *keys, float *values, int64_t base, int64_t count, int64_t last, int64_t padded,
                           const CacheView &cache, const AttentionShape &shape) {
    const int64_t bytes = shape.row_bytes(), slot_bytes = shape.kv_heads * bytes, bs = shape.block_size;
    auto place = [&](int64_t at) {
        int64_t slot = static_cast<int64_t>(cache.table[at / bs]) * bs + at % bs;
        return slot * slot_bytes + cache.kv_head * bytes;
    };
    for (int64_t i = 0; i < count; ++i) {
        const int64_t offset = place(base + i);
        // A head's rows lie too far apart for the processor to see the pattern.
        if (base + i + kTile <= last) {
            const int64_t ahead = place(base + i + kTile);
            for (int64_t at = 0; at < bytes; at += 64) {
                __builtin_prefetch(cache.keys + ahead + at);
                __builtin_prefetch(cache.values + ahead + at);
            }
        }
        widen(keys + i * padded, cache.keys + offset, shape.head_dim, padded, shape.kv);
        widen(values + i * padded, cache.values + offset, shape.head_dim, padded, shape.kv);
    }
}

// Lanes of a and, from kW on, of b.
OSTRO_BODY vec picked(vec a, vec b, ivec lanes) {
#ifdef __clang__  // which has no shuffle by a vector, and makes one of this
    vec value;
#pragma unroll
    for (int j = 0; j < kW; ++j) value[j] = lanes[j] < kW ? a[lanes[j] % kW] : b[lanes[j] % kW];
    return value;
#else
    return __builtin_shuffle(a, b, lanes);
#endif
}

// Each lane beside the one kHalf lanes further on.
template <int kHalf>
OSTRO_BODY vec turned(vec value) {
    ivec lanes;
    for (int j = 0; j < kW; ++j) lanes[j] = (j + kHalf) % kW;
    return picked(value, value, lanes);
}

template <int kHalf = kW / 2>
OSTRO_BODY float sum_lanes(vec value) {
    value += turned<kHalf>(value);
    if constexpr (kHalf > 1) return sum_lanes<kHalf / 2>(value);
    return value[0];
}

template <int kHalf = kW / 2>
OSTRO_BODY float largest_lane(vec value) {
    value = larger(value, turned<kHalf>(value));
    if constexpr (kHalf > 1) return largest_lane<kHalf / 2>(value);
    return value[0];
}

// Lane n of the result is the sum over the lanes of rows[n]: a tree that halves the vectors at each level, with kSpan
// lanes to a sum that is under way.
template <int kSpan>
OSTRO_BODY void fold(vec *rows) {
    constexpr int kHalf = kSpan / 2;
    ivec low, high;
    for (int j = 0; j < kW; ++j) {
        bool first = j % kSpan < kHalf;
        low[j] = first ? j : kW + j - kHalf;
        high[j] = first ? j + kHalf : kW + j;
    }
#pragma GCC unroll 8
    for (int n = 0; n < kHalf; ++n)
        rows[n] = picked(rows[n], rows[n + kHalf], low) + picked(rows[n], rows[n + kHalf], high);
    if constexpr (kHalf > 1) fold<kHalf>(rows);
}

// scores[n] = query . keys[n] for kW keys.
OSTRO_BODY void dots(float *scores, const float *query, const float *keys, int64_t padded) {
    vec sum[kW];
    for (int n = 0; n < kW; ++n) sum[n] = vec{};
    for (int64_t d = 0; d < padded; d += kW) {
        const vec part = load_vec(query + d);
#pragma GCC unroll 16
        for (int n = 0; n < kW; ++n) sum[n] += part * load_vec(keys + n * padded + d);
    }
    fold<kW>(sum);
    store_vec(scores, sum[0]);
}

// sums[d] = sums[d] * shrink + sum_i weights[i] * values[i, d], kN vectors of dimensions from d on.
template <int kN>
OSTRO_BODY void add_values(float *sums, const float *weights, const float *values, float shrink, int64_t d,
                           int64_t count, int64_t padded) {
    vec sum[kN];
#pragma GCC unroll 8
    for (int n = 0; n < kN; ++n) sum[n] = load_vec(sums + d + n * kW) * shrink;
    for (int64_t i = 0; i < count; ++i) {
        const vec weight = spread(weights[i]);
#pragma GCC unroll 8
        for (int n = 0; n < kN; ++n) sum[n] += weight * load_vec(values + i * padded + d + n * kW);
    }
#pragma GCC unroll 8
    for (int n = 0; n < kN; ++n) store_vec(sums + d + n * kW, sum[n]);
}

int64_t first_position(int64_t position, int64_t window) {
    return window > 0 && position + 1 > window ? position + 1 - window : 0;
}

// Dimensions are the lanes.
void one_token(const float *q, float *out, int64_t, int64_t position, const CacheView &cache,
               const AttentionShape &shape, float *scratch) {
    const int64_t group = shape.group(), dim = shape.head_dim, padded = (dim + kW - 1) / kW * kW;
    float *query = scratch, *sums = query + group * padded, *keys = sums + group * padded;
    float *values = keys + kTile * padded, *scores = values + kTile * padded;
    float *best = scores + group * kTile, *total = best + group;
    for (int64_t g = 0; g < group; ++g) {
        for (int64_t d = 0; d < padded; ++d) {
            query[g * padded + d] = d < dim ? q[g * dim + d] * shape.scale : 0.0f;
            sums[g * padded + d] = 0.0f;
        }
        best[g] = -INFINITY, total[g] = 0.0f;
    }
    for (int64_t base = first_position(position, shape.window); base <= position; base += kTile) {
        int64_t count = position + 1 - base < kTile ? position + 1 - base : kTile;
        widen_tile(keys, values, base, count, position, padded, cache, shape);
        for (int64_t g = 0; g < group; ++g) {
            const float *qg = query + g * padded;
            float *sg = scores + g * kTile, top = best[g];
            for (int64_t i = 0; i < count; i += kW) dots(sg + i, qg, keys + i * padded, padded);
            for (int64_t i = count; i < kTile; ++i) sg[i] = -INFINITY;
            vec most = spread(top);
            for (int64_t i = 0; i < kTile; i += kW) most = larger(load_vec(sg + i), most);
            top = largest_lane(most);
            float shrink = best[g] == -INFINITY ? 0.0f : exp_vec(spread(best[g] - top))[0];
            vec sum = vec{};
            for (int64_t i = 0; i < kTile; i += kW) {
                vec score = load_vec(sg + i), weight = exp_vec(score - top);
                weight = score == spread(-INFINITY) ? vec{} : weight;
                store_vec(sg + i, weight);
                sum += weight;
            }
            best[g] = top;
            total[g] = total[g] * shrink + sum_lanes(sum);
            float *acc = sums + g * padded;
            int64_t d = 0;
            for (; d + 8 * kW <= padded; d += 8 * kW) add_values<8>(acc, sg, values, shrink, d, count, padded);
            for (; d + 4 * kW <= padded; d += 4 * kW) add_values<4>(acc, sg, values, shrink, d, count, padded);
            for (; d < padded; d += kW) add_values<1>(acc, sg, values, shrink, d, count, padded);
        }
    }
    for (int64_t g = 0; g < group; ++g)
        for (int64_t d = 0; d < dim; ++d) out[g * dim + d] = sums[g * padded + d] / total[g];
}

constexpr int kV = OSTRO_VECTORS, kK = OSTRO_KEYS, kD = OSTRO_DIMS;
constexpr int64_t kRows = kV * kW;

// scores[i, row] = keys[i] . query[row], kN keys from i on. query is [dim, rows].
template <int kN>
OSTRO_BODY void score(float *scores, const float *keys, const float *query, int64_t i, int64_t dim, int64_t padded) {
    vec sum[kN][kV];
    for (int n = 0; n < kN; ++n)
        for (int v = 0; v < kV; ++v) sum[n][v] = vec{};
    for (int64_t d = 0; d < dim; ++d) {
        vec row[kV];
        for (int v = 0; v < kV; ++v) row[v] = load_vec(query + d * kRows + v * kW);
        for (int n = 0; n < kN; ++n) {
            vec key = spread(keys[(i + n) * padded + d]);
            for (int v = 0; v < kV; ++v) sum[n][v] += row[v] * key;
        }
    }
    for (int n = 0; n < kN; ++n)
        for (int v = 0; v < kV; ++v) store_vec(scores + (i + n) * kRows + v * kW, sum[n][v]);
}

// sums[d] = sums[d] * shrink + sum_i weights[i] * values[i, d], kN dimensions from d on. sums is [dim, rows].
template <int kN>
OSTRO_BODY void gather(float *sums, const float *weights, const float *values, const float *shrink, int64_t d,
                       int64_t count, int64_t padded) {
    vec sum[kN][kV];
    for (int n = 0; n < kN; ++n)
        for (int v = 0; v < kV; ++v)
            sum[n][v] = load_vec(sums + (d + n) * kRows + v * kW) * load_vec(shrink + v * kW);
    for (int64_t i = 0; i < count; ++i) {
        vec weight[kV];
        for (int v = 0; v < kV; ++v) weight[v] = load_vec(weights + i * kRows + v * kW);
        for (int n = 0; n < kN; ++n) {
            vec value = spread(values[i * padded + d + n]);
            for (int v = 0; v < kV; ++v) sum[n][v] += weight[v] * value;
        }
    }
    for (int n = 0; n < kN; ++n)
        for (int v = 0; v < kV; ++v) store_vec(sums + (d + n) * kRows + v * kW, sum[n][v]);
}

// Query rows are the lanes.
void many_tokens(const float *q, float *out, int64_t tokens, int64_t position, const CacheView &cache,
                 const AttentionShape &shape, float *scratch) {
    const int64_t group = shape.group(), dim = shape.head_dim, rows = tokens * group;
    const int64_t padded = (dim + kW - 1) / kW * kW, last = position + tokens - 1;
    float *query = scratch, *sums = query + dim * kRows, *keys = sums + dim * kRows;
    float *values = keys + kTile * padded, *scores = values + kTile * padded;
    float *best = scores + kTile * kRows, *total = best + kRows, *shrink = total + kRows;
    int32_t seen[kRows];  // the position of each row's query; lanes without one see nothing
    for (int64_t r = 0; r < kRows; ++r) {
        seen[r] = r < rows ? static_cast<int32_t>(position + r / group) : -1;
        best[r] = -INFINITY, total[r] = 0.0f;
    }
    for (int64_t d = 0; d < dim; ++d)
        for (int64_t r = 0; r < kRows; ++r) {
            query[d * kRows + r] = r < rows ? q[r * dim + d] * shape.scale : 0.0f;
            sums[d * kRows + r] = 0.0f;
        }
    const int32_t window = shape.window > 0 && shape.window <= last ? static_cast<int32_t>(shape.window) : 0;
    for (int64_t base = first_position(position, shape.window); base <= last; base += kTile) {
        int64_t count = last + 1 - base < kTile ? last + 1 - base : kTile;
        widen_tile(keys, values, base, count, last, padded, cache, shape);
        int64_t i = 0;
        for (; i + kK <= count; i += kK) score<kK>(scores, keys, query, i, dim, padded);
        for (; i < count; ++i) score<1>(scores, keys, query, i, dim, padded);
        // Some row may not see some key: those after it, those before its window, lanes without a query.
        bool partial = base + count - 1 > position || rows < kRows || (window && base <= last - window);
        for (int v = 0; v < kV; ++v) {
            ivec at;
            std::memcpy(&at, seen + v * kW, sizeof at);
            vec top = load_vec(best + v * kW);
            const vec before = top;
            for (int64_t k = 0; k < count; ++k) {
                float *place = scores + k * kRows + v * kW;
                vec value = load_vec(place);
                if (partial) {
                    int32_t key = static_cast<int32_t>(base + k);
                    ivec hidden = window ? (at < key) | (at - window >= key) : at < key;
                    value = hidden ? spread(-INFINITY) : value;
                    store_vec(place, value);
                }
                top = larger(value, top);
            }
            // Where nothing was seen yet, differences are taken from 0, and all weights are 0.
            vec from = top == spread(-INFINITY) ? vec{} : top;
            vec less = before == spread(-INFINITY) ? vec{} : exp_vec(before - from);
            vec sum = load_vec(total + v * kW) * less;
            for (int64_t k = 0; k < count; ++k) {
                float *place = scores + k * kRows + v * kW;
                vec value = load_vec(place), weight = exp_vec(value - from);
                if (partial) weight = value == spread(-INFINITY) ? vec{} : weight;
                store_vec(place, weight);
                sum += weight;
            }
            store_vec(best + v * kW, top);
            store_vec(total + v * kW, sum);
            store_vec(shrink + v * kW, less);
        }
        int64_t d = 0;
        for (; d + kD <= dim; d += kD) gather<kD>(sums, scores, values, shrink, d, count, padded);
        for (; d < dim; ++d) gather<1>(sums, scores, values, shrink, d, count, padded);
    }
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t d = 0; d < dim; ++d) out[r * dim + d] = sums[d * kRows + r] / total[r];
}

}  // namespace
}  // namespace ostro
