#include <cmath>
#include <vector>

#include "common.h"
#include "kernels.h"
#include "parallel.h"

namespace ostro {
namespace {

// Online softmax (Milakov & Gimelshein 2018, arXiv:1805.02867), one tile of cache positions at a time: K and V
// are read once for all query heads of a group, and nothing grows with the context.
constexpr int64_t kTile = 32;

struct Shape {
    int64_t heads, kv_heads, head_dim, block_size, window;
    float scale;
};

template <class T>
OSTRO_INLINE void attend_group(T *out, const T *q, const T *k_cache, const T *v_cache, const int32_t *table,
                               int64_t position, int64_t kv_head, const Shape &shape, float *scratch) {
    const int64_t group = shape.heads / shape.kv_heads, dim = shape.head_dim;
    const int64_t row = shape.kv_heads * dim, bs = shape.block_size;
    float *query = scratch;                    // [group, dim], scaled
    float *sums = query + group * dim;         // [group, dim]
    float *scores = sums + group * dim;        // [group, kTile]
    float *best = scores + group * kTile;      // [group]
    float *total = best + group;               // [group]

    for (int64_t i = 0; i < group * dim; ++i) query[i] = load(q + i) * shape.scale, sums[i] = 0.0f;
    for (int64_t g = 0; g < group; ++g) best[g] = -INFINITY, total[g] = 0.0f;

    int64_t start = shape.window > 0 && position + 1 > shape.window ? position + 1 - shape.window : 0;
    const T *k_rows[kTile];
    const T *v_rows[kTile];
    for (int64_t base = start; base <= position; base += kTile) {
        int64_t count = position + 1 - base < kTile ? position + 1 - base : kTile;
        for (int64_t i = 0; i < count; ++i) {
            int64_t at = base + i;
            int64_t slot = static_cast<int64_t>(table[at / bs]) * bs + at % bs;
            k_rows[i] = k_cache + slot * row + kv_head * dim;
            v_rows[i] = v_cache + slot * row + kv_head * dim;
        }
        for (int64_t g = 0; g < group; ++g) {
            const float *qg = query + g * dim;
            float *sg = scores + g * kTile;
            float top = best[g];
            for (int64_t i = 0; i < count; ++i) {
                const T *k = k_rows[i];
                float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
                for (int64_t d = 0; d < dim; ++d) dot += qg[d] * load(k + d);
                sg[i] = dot;
                top = dot > top ? dot : top;
            }
            float shrink = exp_fast(best[g] - top), sum = 0.0f;
            if (best[g] == -INFINITY) shrink = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < count; ++i) {
                float weight = exp_fast(sg[i] - top);
                sg[i] = weight;
                sum += weight;
            }
            best[g] = top;
            total[g] = total[g] * shrink + sum;
            float *acc = sums + g * dim;
#pragma omp simd
            for (int64_t d = 0; d < dim; ++d) acc[d] *= shrink;
            for (int64_t i = 0; i < count; ++i) {
                const T *v = v_rows[i];
                float weight = sg[i];
#pragma omp simd
                for (int64_t d = 0; d < dim; ++d) acc[d] += weight * load(v + d);
            }
        }
    }
    for (int64_t g = 0; g < group; ++g) {
        float inverse = 1.0f / total[g];
        for (int64_t d = 0; d < dim; ++d) store(out + g * dim + d, sums[g * dim + d] * inverse);
    }
}

template <class T>
OSTRO_INLINE void attend_range(T *out, const T *q, int64_t q_stride, const T *k_cache, const T *v_cache,
                               const int32_t *table, int64_t table_stride, const int64_t *positions,
                               const int32_t *row_sequence, int64_t begin, int64_t end, const Shape &shape,
                               float *scratch) {
    const int64_t group = shape.heads / shape.kv_heads;
    for (int64_t item = begin; item < end; ++item) {
        int64_t row = item / shape.kv_heads, kv_head = item % shape.kv_heads;
        int64_t head = kv_head * group * shape.head_dim;
        attend_group(out + row * shape.heads * shape.head_dim + head, q + row * q_stride + head, k_cache, v_cache,
                     table + row_sequence[row] * table_stride, positions[row], kv_head, shape, scratch);
    }
}

OSTRO_CLONES void attend_f32(float *out, const float *q, int64_t q_stride, const float *k, const float *v,
                             const int32_t *table, int64_t table_stride, const int64_t *positions,
                             const int32_t *row_sequence, int64_t begin, int64_t end, const Shape &shape,
                             float *scratch) {
    attend_range(out, q, q_stride, k, v, table, table_stride, positions, row_sequence, begin, end, shape,
                 scratch);
}

OSTRO_CLONES void attend_bf16(bf16 *out, const bf16 *q, int64_t q_stride, const bf16 *k, const bf16 *v,
                              const int32_t *table, int64_t table_stride, const int64_t *positions,
                              const int32_t *row_sequence, int64_t begin, int64_t end, const Shape &shape,
                              float *scratch) {
    attend_range(out, q, q_stride, k, v, table, table_stride, positions, row_sequence, begin, end, shape,
                 scratch);
}

}  // namespace

void paged_attention(DType dtype, uintptr_t out, uintptr_t q, int64_t q_stride, uintptr_t k_cache,
                     uintptr_t v_cache, uintptr_t block_table, int64_t table_stride, uintptr_t positions,
                     uintptr_t row_sequence, int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim,
                     int64_t block_size, int64_t window, float scale) {
    Shape shape{heads, kv_heads, head_dim, block_size, window, scale};
    const int32_t *table = reinterpret_cast<const int32_t *>(block_table);
    const int64_t *position = reinterpret_cast<const int64_t *>(positions);
    const int32_t *sequence = reinterpret_cast<const int32_t *>(row_sequence);
    int64_t longest = 0;
    for (int64_t row = 0; row < rows; ++row) longest = position[row] > longest ? position[row] : longest;
    if (window > 0 && longest > window) longest = window;
    int64_t group = heads / kv_heads, cost = (longest + 1) * group * head_dim / 8 + 1;
    parallel_for(rows * kv_heads, cost, [&](int64_t begin, int64_t end) {
        std::vector<float> scratch(static_cast<size_t>(group * (2 * head_dim + kTile + 2)));
        if (dtype == DType::f32)
            attend_f32(reinterpret_cast<float *>(out), reinterpret_cast<const float *>(q), q_stride,
                       reinterpret_cast<const float *>(k_cache), reinterpret_cast<const float *>(v_cache), table,
                       table_stride, position, sequence, begin, end, shape, scratch.data());
        else
            attend_bf16(reinterpret_cast<bf16 *>(out), reinterpret_cast<const bf16 *>(q), q_stride,
                        reinterpret_cast<const bf16 *>(k_cache), reinterpret_cast<const bf16 *>(v_cache), table,
                        table_stride, position, sequence, begin, end, shape, scratch.data());
    });
}

}  // namespace ostro
