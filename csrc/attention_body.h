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

#if OSTRO_WIDTH == 16
OSTRO_BODY vec from_bytes(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
}
OSTRO_BODY vec from_bf16(const uint8_t *p) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
OSTRO_BODY vec from_f16(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
#elif OSTRO_WIDTH == 8
OSTRO_BODY vec from_bytes(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
}
OSTRO_BODY vec from_bf16(const uint8_t *p) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
OSTRO_BODY vec from_f16(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
#else
OSTRO_BODY vec from_bytes(const uint8_t *p) {
    vec value;
    for (int j = 0; j < kW; ++j) value[j] = static_cast<float>(reinterpret_cast<const int8_t *>(p)[j]);
    return value;
}
OSTRO_BODY vec from_bf16(const uint8_t *p) {
    uint16_t halves[kW];
    std::memcpy(halves, p, sizeof halves);
    ivec bits;
    for (int j = 0; j < kW; ++j) bits[j] = static_cast<int32_t>(static_cast<uint32_t>(halves[j]) << 16);
    vec value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
OSTRO_BODY vec from_f16(const uint8_t *p) {
    uint16_t halves[kW];
    std::memcpy(halves, p, sizeof halves);
    vec value;
    for (int j = 0; j < kW; ++j) value[j] = half_to_float(halves[j]);
    return value;
}
#endif

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
        for (; d + kW <= dim; d += kW) store_vec(out + d, from_f16(row + 2 * d));
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

// Where a head's keys and values lie.
struct Rows {
    const CacheView &cache;
    const AttentionShape &shape;

    OSTRO_ALWAYS_INLINE int64_t offset(int64_t at) const {
        // In 32 bits, which positions never leave: a division of 64 takes several times as long.
        const uint32_t bs = static_cast<uint32_t>(shape.block_size), p = static_cast<uint32_t>(at);
        const int64_t slot = static_cast<int64_t>(cache.table[p / bs]) * bs + p % bs;
        return (slot * shape.kv_heads + cache.kv_head) * shape.row_bytes();
    }

    // A head's rows lie too far apart for the processor to see the pattern.
    OSTRO_ALWAYS_INLINE void fetch(int64_t from) const {
        const int64_t bytes = shape.row_bytes();
        for (int64_t line = 0; line < bytes; line += 64) {
            __builtin_prefetch(cache.keys + from + line);
            __builtin_prefetch(cache.values + from + line);
        }
    }
};

// Keys and values of `count` positions from `base` on; those of the next tile, up to position `last`, are fetched.
OSTRO_BODY void widen_tile(float *keys, float *values, int64_t base, int64_t count, int64_t last, int64_t padded,
                           const CacheView &cache, const AttentionShape &shape) {
    const Rows rows{cache, shape};
    for (int64_t i = 0; i < count; ++i) {
        const int64_t offset = rows.offset(base + i);
        if (base + i + kTile <= last) rows.fetch(rows.offset(base + i + kTile));
        widen(keys + i * padded, cache.keys + offset, shape.head_dim, padded, shape.kv);
        widen(values + i * padded, cache.values + offset, shape.head_dim, padded, shape.kv);
    }
}

// kW numbers of a row from d on; those of an int8 row without its scale.
template <KVType kKV>
OSTRO_BODY vec widened(const uint8_t *row, int64_t d) {
    if constexpr (kKV == KVType::f32) return load_vec(reinterpret_cast<const float *>(row) + d);
    if constexpr (kKV == KVType::bf16) return from_bf16(row + 2 * d);
    if constexpr (kKV == KVType::f16) return from_f16(row + 2 * d);
    return from_bytes(row + d);
}

template <KVType kKV>
OSTRO_BODY float scale_of(const uint8_t *row, int64_t dim) {
    if constexpr (kKV != KVType::i8) return 1.0f;
    float scale;
    std::memcpy(&scale, row + dim, 4);
    return scale;
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

// scores[h, i] = query[h] . keys[i] of kH heads, kW / kH keys at a time: each is widened once for all of them.
template <KVType kKV, int kH>
OSTRO_BODY void score_keys(float *scores, const float *query, const uint8_t *const *keys, int64_t count, int64_t dim) {
    constexpr int kN = kW / kH;
    for (int64_t i = 0; i < count; i += kN) {
        const uint8_t *key[kN];
        for (int n = 0; n < kN; ++n) key[n] = keys[i + n < count ? i + n : count - 1];
        vec sum[kW];
        for (int n = 0; n < kW; ++n) sum[n] = vec{};
        for (int64_t d = 0; d < dim; d += kW) {
            vec part[kH];
#pragma GCC unroll 4
            for (int h = 0; h < kH; ++h) part[h] = load_vec(query + h * dim + d);
#pragma GCC unroll 16
            for (int n = 0; n < kN; ++n) {
                const vec wide = widened<kKV>(key[n], d);
#pragma GCC unroll 4
                for (int h = 0; h < kH; ++h) sum[n * kH + h] += part[h] * wide;
            }
        }
        fold<kW>(sum);
        float found[kW];
        store_vec(found, sum[0]);
        for (int n = 0; n < kN; ++n) {
            const float scale = scale_of<kKV>(key[n], dim);
            for (int h = 0; h < kH; ++h) scores[h * kTile + i + n] = found[n * kH + h] * scale;
        }
    }
}

// sums[h, d] = sums[h, d] * shrink[h] + sum_i weights[h, i] * values[i, d] of kH heads, kN vectors of dimensions from d on.
template <KVType kKV, int kH, int kN>
OSTRO_BODY void add_values(float *sums, const float *weights, const float *shrink, const uint8_t *const *values,
                           int64_t count, int64_t dim, int64_t d) {
    vec sum[kH][kN];
#pragma GCC unroll 4
    for (int h = 0; h < kH; ++h)
#pragma GCC unroll 16
        for (int n = 0; n < kN; ++n) sum[h][n] = load_vec(sums + h * dim + d + n * kW) * shrink[h];
    for (int64_t i = 0; i < count; ++i) {
        vec wide[kN];
#pragma GCC unroll 16
        for (int n = 0; n < kN; ++n) wide[n] = widened<kKV>(values[i], d + n * kW);
#pragma GCC unroll 4
        for (int h = 0; h < kH; ++h) {
            const vec weight = spread(weights[h * kTile + i]);
#pragma GCC unroll 16
            for (int n = 0; n < kN; ++n) sum[h][n] += weight * wide[n];
        }
    }
#pragma GCC unroll 4
    for (int h = 0; h < kH; ++h)
#pragma GCC unroll 16
        for (int n = 0; n < kN; ++n) store_vec(sums + h * dim + d + n * kW, sum[h][n]);
}

// One step of the online softmax: `count` scores of a tile become weights, those behind them 0. best and total are the
// largest score so far and the weights' sum; returns by how much earlier sums shrink.
OSTRO_BODY float weigh(float *scores, int64_t count, float &best, float &total) {
    for (int64_t i = count; i < kTile; ++i) scores[i] = -INFINITY;
    vec most = spread(best);
    for (int64_t i = 0; i < kTile; i += kW) most = larger(load_vec(scores + i), most);
    const float top = largest_lane(most);
    const float shrink = best == -INFINITY ? 0.0f : exp_vec(spread(best - top))[0];
    vec sum = vec{};
    for (int64_t i = 0; i < kTile; i += kW) {
        vec score = load_vec(scores + i), weight = exp_vec(score - top);
        weight = score == spread(-INFINITY) ? vec{} : weight;
        store_vec(scores + i, weight);
        sum += weight;
    }
    best = top;
    total = total * shrink + sum_lanes(sum);
    return shrink;
}

// What heads keep while they go over the tiles, a row of `dim` each; scores are of a tile and four heads.
struct Softmax {
    float *query, *sums, *scores, *best, *total;
};

// A tile for kH heads from `head` on.
template <KVType kKV, int kH>
OSTRO_BODY void tile_of(const Softmax &state, int64_t head, const uint8_t *const *keys, const uint8_t *const *values,
                        int64_t count, int64_t dim) {
    constexpr int kMost = kW >= 8 ? kW : 4, kN = kMost / kH;
    float *scores = state.scores, *sums = state.sums + head * dim, shrink[kH];
    score_keys<kKV, kH>(scores, state.query + head * dim, keys, count, dim);
    for (int h = 0; h < kH; ++h) {
        float *own = scores + h * kTile;
        shrink[h] = weigh(own, count, state.best[head + h], state.total[head + h]);
        if (kKV == KVType::i8)
            for (int64_t i = 0; i < count; ++i) own[i] *= scale_of<kKV>(values[i], dim);
    }
    int64_t d = 0;
    for (; d + kN * kW <= dim; d += kN * kW) add_values<kKV, kH, kN>(sums, scores, shrink, values, count, dim, d);
    for (; d < dim; d += kW) add_values<kKV, kH, 1>(sums, scores, shrink, values, count, dim, d);
}

int64_t first_position(int64_t position, int64_t window) {
    return window > 0 && position + 1 > window ? position + 1 - window : 0;
}

// Of heads whose dimension is whole vectors, rows are widened as they are multiplied. A tile is gone through for all heads
// before the next: those of a position lie side by side, so that memory is read in order.
template <KVType kKV>
void whole_vectors(const Softmax &state, int64_t kv_heads, int64_t position, const CacheView &cache,
                   const AttentionShape &shape) {
    const int64_t group = shape.group(), dim = shape.head_dim, bytes = shape.row_bytes();
    const Rows rows{cache, shape};
    // Where the tile's rows of the first head begin, and those of the tile after it, which are fetched meanwhile.
    int64_t here[kTile], ahead[kTile];
    const int64_t first = first_position(position, shape.window);
    for (int64_t i = 0; i < kTile && first + i <= position; ++i) ahead[i] = rows.offset(first + i);
    for (int64_t base = first; base <= position; base += kTile) {
        const int64_t left = position + 1 - base, count = left < kTile ? left : kTile;
        const int64_t coming = left - count < kTile ? left - count : kTile;
        for (int64_t i = 0; i < count; ++i) here[i] = ahead[i];
        for (int64_t i = 0; i < coming; ++i) ahead[i] = rows.offset(base + kTile + i);
        for (int64_t k = 0; k < kv_heads; ++k) {
            const uint8_t *keys[kTile], *values[kTile];
            for (int64_t i = 0; i < count; ++i)
                keys[i] = cache.keys + here[i] + k * bytes, values[i] = cache.values + here[i] + k * bytes;
            for (int64_t i = 0; i < coming; ++i) rows.fetch(ahead[i] + k * bytes);
            int64_t head = k * group;
            const int64_t last = head + group;
            for (; head + 4 <= last; head += 4) tile_of<kKV, 4>(state, head, keys, values, count, dim);
            if (head + 2 <= last) tile_of<kKV, 2>(state, head, keys, values, count, dim), head += 2;
            if (head < last) tile_of<kKV, 1>(state, head, keys, values, count, dim);
        }
    }
}

// Dimensions are the lanes.
void one_token(const float *q, float *out, int64_t kv_heads, int64_t position, const CacheView &cache,
               const AttentionShape &shape, float *scratch) {
    const int64_t group = shape.group(), heads = kv_heads * group;
    const int64_t dim = shape.head_dim, padded = (dim + kW - 1) / kW * kW;
    float *sums = scratch + heads * padded, *scores = sums + heads * padded, *best = scores + 4 * kTile;
    const Softmax state{scratch, sums, scores, best, best + heads};
    for (int64_t g = 0; g < heads; ++g) {
        for (int64_t d = 0; d < padded; ++d) {
            state.query[g * padded + d] = d < dim ? q[g * dim + d] * shape.scale : 0.0f;
            state.sums[g * padded + d] = 0.0f;
        }
        state.best[g] = -INFINITY, state.total[g] = 0.0f;
    }
    if (padded != dim) {
        // Widened to rows of whole vectors first, then as rows of float32 are.
        float *keys = state.total + heads, *values = keys + kTile * padded;
        const uint8_t *key[kTile], *value[kTile];
        for (int64_t i = 0; i < kTile; ++i) {
            key[i] = reinterpret_cast<const uint8_t *>(keys + i * padded);
            value[i] = reinterpret_cast<const uint8_t *>(values + i * padded);
        }
        for (int64_t base = first_position(position, shape.window); base <= position; base += kTile) {
            const int64_t count = position + 1 - base < kTile ? position + 1 - base : kTile;
            for (int64_t g = 0; g < heads; ++g) {
                if (g % group == 0) {
                    const CacheView own{cache.keys, cache.values, cache.table, cache.kv_head + g / group};
                    widen_tile(keys, values, base, count, position, padded, own, shape);
                }
                tile_of<KVType::f32, 1>(state, g, key, value, count, padded);
            }
        }
    } else if (shape.kv == KVType::f32) {
        whole_vectors<KVType::f32>(state, kv_heads, position, cache, shape);
    } else if (shape.kv == KVType::bf16) {
        whole_vectors<KVType::bf16>(state, kv_heads, position, cache, shape);
    } else if (shape.kv == KVType::f16) {
        whole_vectors<KVType::f16>(state, kv_heads, position, cache, shape);
    } else {
        whole_vectors<KVType::i8>(state, kv_heads, position, cache, shape);
    }
    for (int64_t g = 0; g < heads; ++g)
        for (int64_t d = 0; d < dim; ++d) out[g * dim + d] = state.sums[g * padded + d] / state.total[g];
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
