// All layers of a decoder with quantised weights in one call: the same kernels as op by op, without the way through
// Python between them, which is a fifth of a small model's step.
#pragma once

#include <cstdint>
#include <vector>

#include "packed_linear.h"

namespace ostro {

class DecoderStep {
  public:
    DecoderStep(int64_t hidden, int64_t feed_forward, int64_t block_size, int kv, float eps, uintptr_t final_norm)
        : hidden_(hidden), feed_forward_(feed_forward), block_size_(block_size), kv_(kv), eps_(eps),
          final_norm_(final_norm) {}

    // Layers in order. What is passed by address or reference outlives this.
    void add_layer(uintptr_t attention_norm, const PackedLinear &qkv, const PackedLinear &output,
                   uintptr_t feed_forward_norm, const PackedLinear &gate_up, const PackedLinear &down,
                   uintptr_t k_cache, uintptr_t v_cache, int64_t heads, int64_t kv_heads, int64_t head_dim,
                   int64_t group, int64_t window, float scale);

    // x[rows, hidden], float32, is overwritten; out[rows, hidden] are the normed hidden states. slots, tables and
    // strides have one entry a cache group. The first short_rows rows attend one by one. The others are chunks, pieces
    // of one sequence: chunk_rows has (first row, row behind the last, position of the first) of each, chunk_blocks the
    // address of its blocks in each cache group.
    void run(uintptr_t out, uintptr_t x, int64_t rows, uintptr_t cos, uintptr_t sin, uintptr_t q_scale,
             uintptr_t positions, uintptr_t row_sequence, int64_t short_rows, const std::vector<uintptr_t> &slots,
             const std::vector<uintptr_t> &tables, const std::vector<int64_t> &strides,
             const std::vector<int64_t> &chunk_rows, const std::vector<uintptr_t> &chunk_blocks);

  private:
    struct Layer {
        uintptr_t attention_norm, feed_forward_norm, k_cache, v_cache;
        const PackedLinear *qkv, *output, *gate_up, *down;
        int64_t heads, kv_heads, head_dim, group, window;
        float scale;
    };

    int64_t hidden_, feed_forward_, block_size_;
    int kv_;
    float eps_;
    uintptr_t final_norm_;
    std::vector<Layer> layers_;
    std::vector<float> normed_, projected_, attended_, branch_, wide_;
};

}  // namespace ostro
