#include "common.h"
#include "kernels.h"
#include "parallel.h"

namespace ostro {
namespace {

template <class T>
OSTRO_INLINE void rotate(T *out, const T *x, const float *cos, const float *sin, int64_t half, float scale) {
#pragma omp simd
    for (int64_t d = 0; d < half; ++d) {
        float low = load(x + d), high = load(x + half + d);
        store(out + d, (low * cos[d] - high * sin[d]) * scale);
        store(out + half + d, (high * cos[d] + low * sin[d]) * scale);
    }
}

template <class T>
OSTRO_INLINE void rope_rows(T *qkv, const float *cos, const float *sin, const float *q_scale,
                            const int64_t *slots, T *k_cache, T *v_cache, int64_t begin, int64_t end,
                            int64_t heads, int64_t kv_heads, int64_t head_dim) {
    int64_t half = head_dim / 2, width = (heads + 2 * kv_heads) * head_dim;
    for (int64_t row = begin; row < end; ++row) {
        T *q = qkv + row * width;
        T *k = q + heads * head_dim;
        const T *v = k + kv_heads * head_dim;
        const float *c = cos + row * half, *s = sin + row * half;
        float scale = q_scale ? q_scale[row] : 1.0f;
        for (int64_t h = 0; h < heads; ++h) rotate(q + h * head_dim, q + h * head_dim, c, s, half, scale);
        T *k_slot = k_cache + slots[row] * kv_heads * head_dim;
        T *v_slot = v_cache + slots[row] * kv_heads * head_dim;
        for (int64_t h = 0; h < kv_heads; ++h)
            rotate(k_slot + h * head_dim, k + h * head_dim, c, s, half, 1.0f);
        std::memcpy(v_slot, v, sizeof(T) * static_cast<size_t>(kv_heads * head_dim));
    }
}

OSTRO_CLONES void rope_f32(float *qkv, const float *cos, const float *sin, const float *q_scale,
                           const int64_t *slots, float *k_cache, float *v_cache, int64_t begin, int64_t end,
                           int64_t heads, int64_t kv_heads, int64_t head_dim) {
    rope_rows(qkv, cos, sin, q_scale, slots, k_cache, v_cache, begin, end, heads, kv_heads, head_dim);
}

OSTRO_CLONES void rope_bf16(bf16 *qkv, const float *cos, const float *sin, const float *q_scale,
                            const int64_t *slots, bf16 *k_cache, bf16 *v_cache, int64_t begin, int64_t end,
                            int64_t heads, int64_t kv_heads, int64_t head_dim) {
    rope_rows(qkv, cos, sin, q_scale, slots, k_cache, v_cache, begin, end, heads, kv_heads, head_dim);
}

}  // namespace

void rope_write(DType dtype, uintptr_t qkv, uintptr_t cos, uintptr_t sin, uintptr_t q_scale, uintptr_t slots,
                uintptr_t k_cache, uintptr_t v_cache, int64_t rows, int64_t heads, int64_t kv_heads,
                int64_t head_dim) {
    parallel_for(rows, (heads + 2 * kv_heads) * head_dim / 2, [=](int64_t begin, int64_t end) {
        const float *c = reinterpret_cast<const float *>(cos), *s = reinterpret_cast<const float *>(sin);
        const float *scale = reinterpret_cast<const float *>(q_scale);
        const int64_t *slot = reinterpret_cast<const int64_t *>(slots);
        if (dtype == DType::f32)
            rope_f32(reinterpret_cast<float *>(qkv), c, s, scale, slot, reinterpret_cast<float *>(k_cache),
                     reinterpret_cast<float *>(v_cache), begin, end, heads, kv_heads, head_dim);
        else
            rope_bf16(reinterpret_cast<bf16 *>(qkv), c, s, scale, slot, reinterpret_cast<bf16 *>(k_cache),
                      reinterpret_cast<bf16 *>(v_cache), begin, end, heads, kv_heads, head_dim);
    });
}

}  // namespace ostro
