#include "attention.h"

#include <algorithm>
#include <vector>

#include "common.h"
#include "kernels.h"
#include "packed_linear.h"
#include "parallel.h"

namespace ostro {
namespace {

// Queries of some tokens' heads, as floats and back.
struct Rows {
    DType dtype;
    uintptr_t out, q;
    int64_t q_stride;

    void read(float *to, int64_t row, int64_t tokens, int64_t head, int64_t heads, const AttentionShape &shape) const {
        const int64_t width = heads * shape.head_dim;
        for (int64_t t = 0; t < tokens; ++t) {
            int64_t at = (row + t) * q_stride + head * shape.head_dim;
            if (dtype == DType::f32)
                std::memcpy(to + t * width, reinterpret_cast<const float *>(q) + at, static_cast<size_t>(4 * width));
            else
                for (int64_t i = 0; i < width; ++i) to[t * width + i] = load(reinterpret_cast<const bf16 *>(q) + at + i);
        }
    }

    void write(const float *from, int64_t row, int64_t tokens, int64_t head, int64_t heads,
               const AttentionShape &shape) const {
        const int64_t width = heads * shape.head_dim;
        for (int64_t t = 0; t < tokens; ++t) {
            int64_t at = (row + t) * shape.heads * shape.head_dim + head * shape.head_dim;
            if (dtype == DType::f32)
                std::memcpy(reinterpret_cast<float *>(out) + at, from + t * width, static_cast<size_t>(4 * width));
            else
                for (int64_t i = 0; i < width; ++i) store(reinterpret_cast<bf16 *>(out) + at + i, from[t * width + i]);
        }
    }
};

// Kept by each thread: clearing them anew would cost more than the attention of a short sequence.
struct Buffers {
    std::vector<float> q, out, scratch;

    static Buffers &of(const AttentionShape &shape, int64_t rows) {
        static thread_local Buffers buffers;
        const size_t size = static_cast<size_t>(rows * shape.head_dim);
        const size_t scratch = static_cast<size_t>(attention_scratch(shape, rows));
        if (buffers.q.size() < size) buffers.q.resize(size), buffers.out.resize(size);
        if (buffers.scratch.size() < scratch) buffers.scratch.resize(scratch);
        return buffers;
    }
};

}  // namespace

void paged_attention(DType dtype, uintptr_t out, uintptr_t q, int64_t q_stride, uintptr_t k_cache, uintptr_t v_cache,
                     int kv, uintptr_t block_table, int64_t table_stride, uintptr_t positions,
                     uintptr_t row_sequence, int64_t rows, int64_t heads, int64_t kv_heads, int64_t head_dim,
                     int64_t block_size, int64_t window, float scale) {
    const AttentionShape shape{heads, kv_heads, head_dim, block_size, window, scale, static_cast<KVType>(kv)};
    const AttentionKernels &kernels = *packed_kernels().attention;
    const Rows queries{dtype, out, q, q_stride};
    const int32_t *table = reinterpret_cast<const int32_t *>(block_table);
    const int64_t *position = reinterpret_cast<const int64_t *>(positions);
    const int32_t *sequence = reinterpret_cast<const int32_t *>(row_sequence);
    int64_t longest = 0;
    for (int64_t row = 0; row < rows; ++row) longest = std::max(longest, position[row]);
    if (window > 0) longest = std::min(longest, window);
    const int64_t cost = (longest + 1) * (shape.group() + 1) * head_dim / 16 + 1;
    // A row is cut as rarely as threads allow: heads that are read together are read in order.
    const int64_t threads = pool_threads();
    const int64_t parts = rows % threads == 0 || rows >= 4 * threads ? 1 : std::min(kv_heads, threads);
    // Handed out one by one: sequences are of unequal length.
    parallel_tasks(rows * parts, cost * kv_heads / parts, [&](auto &&next) {
        Buffers &buffers = Buffers::of(shape, std::max(heads, kernels.max_rows));
        for (int64_t item = next(); item < rows * parts; item = next()) {
            const int64_t row = item / parts, part = item % parts;
            const int64_t kv_head = kv_heads * part / parts, count = kv_heads * (part + 1) / parts - kv_head;
            const int64_t head = kv_head * shape.group(), width = count * shape.group();
            CacheView cache{reinterpret_cast<const uint8_t *>(k_cache), reinterpret_cast<const uint8_t *>(v_cache),
                            table + sequence[row] * table_stride, kv_head};
            queries.read(buffers.q.data(), row, 1, head, width, shape);
            kernels.one_token(buffers.q.data(), buffers.out.data(), count, position[row], cache, shape,
                              buffers.scratch.data());
            queries.write(buffers.out.data(), row, 1, head, width, shape);
        }
    });
}

void chunk_attention(DType dtype, uintptr_t out, uintptr_t q, int64_t q_stride, uintptr_t k_cache, uintptr_t v_cache,
                     int kv, uintptr_t blocks, int64_t start, int64_t rows, int64_t heads, int64_t kv_heads,
                     int64_t head_dim, int64_t block_size, int64_t window, float scale) {
    const AttentionShape shape{heads, kv_heads, head_dim, block_size, window, scale, static_cast<KVType>(kv)};
    const AttentionKernels &kernels = *packed_kernels().attention;
    const Rows queries{dtype, out, q, q_stride};
    const int64_t each = std::max<int64_t>(1, kernels.max_rows / shape.group());
    const bool wide = shape.group() <= kernels.max_rows;
    const int64_t parts = (rows + each - 1) / each, seen = window > 0 ? std::min(window, start + rows) : start + rows;
    // Later parts see more: they are handed out one by one, the longest first.
    parallel_tasks(parts * kv_heads, seen * each * shape.group() * head_dim / 16 + 1, [&](auto &&next) {
        Buffers &buffers = Buffers::of(shape, std::max(each * shape.group(), kernels.max_rows));
        for (int64_t task = next(); task < parts * kv_heads; task = next()) {
            int64_t part = parts - 1 - task / kv_heads, kv_head = task % kv_heads, head = kv_head * shape.group();
            int64_t first = part * each, tokens = std::min(each, rows - first);
            CacheView cache{reinterpret_cast<const uint8_t *>(k_cache), reinterpret_cast<const uint8_t *>(v_cache),
                            reinterpret_cast<const int32_t *>(blocks), kv_head};
            queries.read(buffers.q.data(), first, tokens, head, shape.group(), shape);
            (wide ? kernels.many_tokens : kernels.one_token)(buffers.q.data(), buffers.out.data(), tokens,
                                                             start + first, cache, shape, buffers.scratch.data());
            queries.write(buffers.out.data(), first, tokens, head, shape.group(), shape);
        }
    });
}

}  // namespace ostro
