#include <cstring>
#include <limits>
#include <vector>

#include "attention.h"
#include "common.h"
#include "half.h"
#include "kernels.h"
#include "parallel.h"

namespace ostro {
namespace {

template <class T>
OSTRO_INLINE void rotate(float *out, const T *x, const float *cos, const float *sin, int64_t half, float scale) {
#pragma omp simd
    for (int64_t d = 0; d < half; ++d) {
        float low = load(x + d), high = load(x + half + d);
        out[d] = (low * cos[d] - high * sin[d]) * scale;
        out[half + d] = (high * cos[d] + low * sin[d]) * scale;
    }
}

// One head's row into the cache. int8: scale = max|x| / 127 over the row; a row with a NaN or an infinity gets the
// scale NaN.
OSTRO_INLINE void keep(uint8_t *row, const float *x, int64_t dim, KVType kv) {
    if (kv == KVType::f32) {
        std::memcpy(row, x, static_cast<size_t>(4 * dim));
    } else if (kv == KVType::bf16) {
        bf16 *out = reinterpret_cast<bf16 *>(row);
#pragma omp simd
        for (int64_t d = 0; d < dim; ++d) store(out + d, x[d]);
    } else if (kv == KVType::f16) {
        uint16_t *out = reinterpret_cast<uint16_t *>(row);
        for (int64_t d = 0; d < dim; ++d) out[d] = float_to_half(x[d]);
    } else {
        float largest = 0.0f;
        bool finite = true;
        for (int64_t d = 0; d < dim; ++d) {
            float magnitude = x[d] < 0.0f ? -x[d] : x[d];
            finite &= magnitude <= std::numeric_limits<float>::max();
            largest = magnitude > largest ? magnitude : largest;
        }
        bool some = finite && largest > 1e-30f;
        float inverse = some ? 127.0f / largest : 0.0f;
        float scale = !finite ? std::numeric_limits<float>::quiet_NaN() : some ? largest / 127.0f : 0.0f;
        for (int64_t d = 0; d < dim; ++d) {
            float shifted = (some ? x[d] * inverse : 0.0f) + 12582912.0f;
            row[d] = static_cast<uint8_t>(static_cast<int8_t>(static_cast<int32_t>(shifted - 12582912.0f)));
        }
        std::memcpy(row + dim, &scale, 4);
    }
}

struct Layer {
    const float *cos, *sin, *q_scale;
    const int64_t *slots;
    uint8_t *k_cache, *v_cache;
    AttentionShape shape;
};

template <class T>
OSTRO_INLINE void rope_rows(T *qkv, const Layer &layer, int64_t begin, int64_t end, float *row) {
    const AttentionShape &shape = layer.shape;
    const int64_t heads = shape.heads, kv_heads = shape.kv_heads, dim = shape.head_dim, half = dim / 2;
    const int64_t width = (heads + 2 * kv_heads) * dim, bytes = shape.row_bytes();
    for (int64_t t = begin; t < end; ++t) {
        T *q = qkv + t * width;
        const T *k = q + heads * dim, *v = k + kv_heads * dim;
        const float *c = layer.cos + t * half, *s = layer.sin + t * half;
        float scale = layer.q_scale ? layer.q_scale[t] : 1.0f;
        for (int64_t h = 0; h < heads; ++h) {
            rotate(row, q + h * dim, c, s, half, scale);
            for (int64_t d = 0; d < dim; ++d) store(q + h * dim + d, row[d]);
        }
        uint8_t *k_slot = layer.k_cache + layer.slots[t] * kv_heads * bytes;
        uint8_t *v_slot = layer.v_cache + layer.slots[t] * kv_heads * bytes;
        for (int64_t h = 0; h < kv_heads; ++h) {
            rotate(row, k + h * dim, c, s, half, 1.0f);
            keep(k_slot + h * bytes, row, dim, shape.kv);
            for (int64_t d = 0; d < dim; ++d) row[d] = load(v + h * dim + d);
            keep(v_slot + h * bytes, row, dim, shape.kv);
        }
    }
}

OSTRO_CLONES void rope_f32(float *qkv, const Layer &layer, int64_t begin, int64_t end, float *row) {
    rope_rows(qkv, layer, begin, end, row);
}

OSTRO_CLONES void rope_bf16(bf16 *qkv, const Layer &layer, int64_t begin, int64_t end, float *row) {
    rope_rows(qkv, layer, begin, end, row);
}

}  // namespace

void rope_write(DType dtype, uintptr_t qkv, uintptr_t cos, uintptr_t sin, uintptr_t q_scale, uintptr_t slots,
                uintptr_t k_cache, uintptr_t v_cache, int kv, int64_t rows, int64_t heads, int64_t kv_heads,
                int64_t head_dim) {
    const Layer layer{reinterpret_cast<const float *>(cos),
                      reinterpret_cast<const float *>(sin),
                      reinterpret_cast<const float *>(q_scale),
                      reinterpret_cast<const int64_t *>(slots),
                      reinterpret_cast<uint8_t *>(k_cache),
                      reinterpret_cast<uint8_t *>(v_cache),
                      {heads, kv_heads, head_dim, 1, 0, 1.0f, static_cast<KVType>(kv)}};
    parallel_for(rows, (heads + 2 * kv_heads) * head_dim / 2, [&](int64_t begin, int64_t end) {
        static thread_local std::vector<float> row;
        if (row.size() < static_cast<size_t>(head_dim)) row.resize(static_cast<size_t>(head_dim));
        if (dtype == DType::f32)
            rope_f32(reinterpret_cast<float *>(qkv), layer, begin, end, row.data());
        else
            rope_bf16(reinterpret_cast<bf16 *>(qkv), layer, begin, end, row.data());
    });
}

}  // namespace ostro
