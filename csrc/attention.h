// Attention over a paged KV cache, compiled once an instruction set.
#pragma once

#include <cstdint>

// A copy that was compiled for one instruction set must not be what the linker takes for all.
#define OSTRO_ALWAYS_INLINE inline __attribute__((always_inline))

namespace ostro {

// How the cache holds numbers. i8: a row of a head is head_dim codes and then a float32 scale.
enum class KVType : int { f32 = 0, bf16 = 1, f16 = 2, i8 = 3 };

struct AttentionShape {
    int64_t heads, kv_heads, head_dim, block_size, window;
    float scale;
    KVType kv;

    OSTRO_ALWAYS_INLINE int64_t group() const { return heads / kv_heads; }
    OSTRO_ALWAYS_INLINE int64_t row_bytes() const { return kv == KVType::i8 ? head_dim + 4 : head_dim * (kv == KVType::f32 ? 4 : 2); }
};

// One sequence's cache as one head sees it.
struct CacheView {
    const uint8_t *keys, *values;
    const int32_t *table;
    int64_t kv_head;
};

// `count` groups of heads (all that share a head of the cache) in float32, [count * group, head_dim] of q and out.
// scratch: attention_scratch() floats for so many rows.
using AttendFn = void (*)(const float *q, float *out, int64_t count, int64_t position, const CacheView &cache,
                          const AttentionShape &shape, float *scratch);

struct AttentionKernels {
    AttendFn one_token;    // of one query at a position, for `count` heads of the cache from kv_head on
    AttendFn many_tokens;  // of one head of the cache, for `count` queries at position, …; count * group <= max_rows
    int64_t max_rows;
};

// Floats of scratch that either function needs at most.
static inline int64_t attention_scratch(const AttentionShape &shape, int64_t rows) {
    const int64_t width = shape.head_dim + 16, tile = 32;
    return 2 * tile * width + tile * (rows + 16) + 4 * (rows + 16) + 2 * (rows + 16) * width + 64;
}

extern const AttentionKernels kAttentionPortable;
#if defined(__x86_64__) && defined(OSTRO_X86_KERNELS)
extern const AttentionKernels kAttentionAvx2, kAttentionAvx512;
#endif

}  // namespace ostro
