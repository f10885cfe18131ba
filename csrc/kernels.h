// The native operations. Addresses of dense, row-major arrays; sizes in elements. All release the GIL.
#pragma once

#include <cstdint>
#include <vector>

namespace ostro {

enum class DType : int { f32 = 0, bf16 = 1 };

// out[t, d] = x[t, d] / sqrt(mean(x[t]^2) + eps) * weight[d]. With `residual`, x += residual first, in place.
void rms_norm(DType dtype, uintptr_t out, uintptr_t x, uintptr_t residual, uintptr_t weight, int64_t rows,
              int64_t width, float eps);

// out[t, f] = silu(gate[t, f]) * up[t, f]. A row of gate_up holds gate and up of the first size, then of the second, and
// so on; one of out has the sizes side by side.
void silu_mul(DType dtype, uintptr_t out, uintptr_t gate_up, int64_t rows, const std::vector<int64_t> &sizes);

// One token a row, [rows] int64, from probabilities [rows, vocabulary] float32 whose rows are `stride` apart. draws: [rows]
// float64. filters: [rows, 3] float64: top_k (0 for none), top_p, min_p.
void pick_tokens(uintptr_t tokens, uintptr_t probs, int64_t stride, uintptr_t draws, uintptr_t filters, int64_t rows,
                 int64_t vocabulary);

// Rotates (rotate-half) the q and k heads of qkv[t, (heads + 2 kv_heads) * head_dim]; q in place and times
// q_scale[t] if given; k and v go to row slots[t] of the caches [slots, kv_heads, row], kv: a KVType.
void rope_write(DType dtype, uintptr_t qkv, uintptr_t cos, uintptr_t sin, uintptr_t q_scale, uintptr_t slots,
                uintptr_t k_cache, uintptr_t v_cache, int kv, int64_t rows, int64_t heads, int64_t kv_heads,
                int64_t head_dim);

// One attention row a query: out[t] = softmax(q[t] K^T * scale) V over the cache positions
// [max(0, positions[t] - window + 1), positions[t]] of sequence row_sequence[t], found through
// block_table[sequence, position / block_size]. window = 0 means everything before. q rows are q_stride apart.
void paged_attention(DType dtype, uintptr_t out, uintptr_t q, int64_t q_stride, uintptr_t k_cache, uintptr_t v_cache,
                     int kv, uintptr_t block_table, int64_t table_stride, uintptr_t positions,
                     uintptr_t row_sequence, int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim,
                     int64_t block_size, int64_t window, float scale);

// The same for queries at positions start, start + 1, … of one sequence, whose blocks are blocks[0], blocks[1], …
void chunk_attention(DType dtype, uintptr_t out, uintptr_t q, int64_t q_stride, uintptr_t k_cache, uintptr_t v_cache,
                     int kv, uintptr_t blocks, int64_t start, int64_t rows, int64_t heads, int64_t kv_heads,
                     int64_t head_dim, int64_t block_size, int64_t window, float scale);

// Bytes a second at which all threads together read memory, the best of three passes over `bytes`, which should be
// many times the caches.
double read_bandwidth(int64_t bytes);

// Multiplications and additions a second that all threads together do on registers, with the instruction that products
// with 4-bit weights use; 0 where that is not known.
double multiply_rate();

// The same of float32 numbers, as attention multiplies them.
double float_rate();

}  // namespace ostro
