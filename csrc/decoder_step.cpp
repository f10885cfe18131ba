#include "decoder_step.h"

#include <algorithm>

#include "kernels.h"

namespace ostro {
namespace {

uintptr_t room(std::vector<float> &buffer, int64_t floats) {
    if (buffer.size() < static_cast<size_t>(floats)) buffer.resize(static_cast<size_t>(floats));
    return reinterpret_cast<uintptr_t>(buffer.data());
}

uintptr_t at(uintptr_t base, int64_t floats) { return base + static_cast<uintptr_t>(floats) * sizeof(float); }

}  // namespace

void DecoderStep::add_layer(uintptr_t attention_norm, const PackedLinear &qkv, const PackedLinear &output,
                            uintptr_t feed_forward_norm, const PackedLinear &gate_up, const PackedLinear &down,
                            uintptr_t k_cache, uintptr_t v_cache, int64_t heads, int64_t kv_heads, int64_t head_dim,
                            int64_t group, int64_t window, float scale) {
    layers_.push_back({attention_norm, feed_forward_norm, k_cache, v_cache, &qkv, &output, &gate_up, &down, heads,
                       kv_heads, head_dim, group, window, scale});
}

void DecoderStep::run(uintptr_t out, uintptr_t x, int64_t rows, uintptr_t cos, uintptr_t sin, uintptr_t q_scale,
                      uintptr_t positions, uintptr_t row_sequence, int64_t short_rows,
                      const std::vector<uintptr_t> &slots, const std::vector<uintptr_t> &tables,
                      const std::vector<int64_t> &strides, const std::vector<int64_t> &chunk_rows,
                      const std::vector<uintptr_t> &chunk_blocks) {
    constexpr DType f32 = DType::f32;
    const size_t groups = slots.size();
    const uintptr_t normed = room(normed_, rows * hidden_), branch = room(branch_, rows * hidden_);
    const uintptr_t wide = room(wide_, rows * feed_forward_);
    uintptr_t pending = 0;
    for (const Layer &layer : layers_) {
        const size_t group = static_cast<size_t>(layer.group);
        const int64_t q_width = layer.heads * layer.head_dim;
        const int64_t qkv_width = q_width + 2 * layer.kv_heads * layer.head_dim;
        const uintptr_t projected = room(projected_, rows * qkv_width), attended = room(attended_, rows * q_width);
        rms_norm(f32, normed, x, pending, layer.attention_norm, rows, hidden_, eps_);
        layer.qkv->matmul(f32, projected, normed, hidden_, rows);
        rope_write(f32, projected, cos, sin, q_scale, slots[group], layer.k_cache, layer.v_cache, kv_, rows,
                   layer.heads, layer.kv_heads, layer.head_dim);
        if (short_rows)
            paged_attention(f32, attended, projected, qkv_width, layer.k_cache, layer.v_cache, kv_, tables[group],
                            strides[group], positions, row_sequence, short_rows, layer.heads, layer.kv_heads,
                            layer.head_dim, block_size_, layer.window, layer.scale);
        for (size_t c = 0; 3 * c < chunk_rows.size(); ++c) {
            int64_t begin = chunk_rows[3 * c], end = chunk_rows[3 * c + 1], start = chunk_rows[3 * c + 2];
            chunk_attention(f32, at(attended, begin * q_width), at(projected, begin * qkv_width), qkv_width,
                            layer.k_cache, layer.v_cache, kv_, chunk_blocks[c * groups + group], start, end - begin,
                            layer.heads, layer.kv_heads, layer.head_dim, block_size_, layer.window, layer.scale);
        }
        layer.output->matmul(f32, branch, attended, q_width, rows);
        rms_norm(f32, normed, x, branch, layer.feed_forward_norm, rows, hidden_, eps_);
        layer.gate_up->gated(f32, wide, normed, hidden_, rows);
        layer.down->matmul(f32, branch, wide, feed_forward_, rows);
        pending = branch;
    }
    rms_norm(f32, out, x, pending, final_norm_, rows, hidden_, eps_);
}

}  // namespace ostro
