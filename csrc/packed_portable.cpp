#include <cstring>
#include <limits>
#include <type_traits>

#include "half.h"
#include "packed.h"

// Plain loops that any compiler can vectorise; what runs where there is nothing better, and what `OSTRO_ISA=portable`
// selects.
namespace ostro {
namespace {

constexpr int kCodes = kPanel * 4;  // of a quad

// A block's codes as 16-bit numbers, in the order [quad][output][input of the quad].
template <int kBits>
void spread(const uint8_t *codes, int16_t *wide) {
    for (int j = 0; j < 8; ++j, wide += kCodes) {
        if (kBits == 4) {
            const uint8_t *quad = codes + kCodes / 2 * j;
            for (int i = 0; i < kCodes / 2; ++i) wide[i] = quad[i] & 15;
            for (int i = 0; i < kCodes / 2; ++i) wide[kCodes / 2 + i] = static_cast<int16_t>(quad[i] >> 4);
        } else {
            for (int i = 0; i < kCodes; ++i) wide[i] = codes[kCodes * j + i];
        }
    }
}

// dot[o] += the block's products. Every product fits 16 bits (255 x 127); those of 4-bit codes do so summed up over a
// block's 8 quads (8 x 15 x 127 = 15240), which is what lets a plain loop use all lanes of a register.
template <int kBits>
void multiply_block(const int16_t *wide, const int8_t *x, int32_t *dot) {
    using Sum = std::conditional_t<kBits == 4, int16_t, int32_t>;
    Sum sums[kCodes] = {};
    for (int j = 0; j < 8; ++j, wide += kCodes) {
        int16_t quad[4], values[kCodes];
        for (int k = 0; k < 4; ++k) quad[k] = x[4 * j + k];
        for (int o = 0; o < kPanel; ++o) std::memcpy(values + 4 * o, quad, sizeof quad);
        for (int i = 0; i < kCodes; ++i)
            sums[i] = static_cast<Sum>(sums[i] + static_cast<int16_t>(wide[i] * values[i]));
    }
    for (int o = 0; o < kPanel; ++o) dot[o] += sums[4 * o] + sums[4 * o + 1] + sums[4 * o + 2] + sums[4 * o + 3];
}

template <int kBits>
void tile(const Panel &panel, Depth depth, const Activations &x, int rows, float *out) {
    constexpr int64_t kBytes = kPanel * kBlock * kBits / 8;
    for (int i = 0; i < rows * kPanel; ++i) out[i] = 0.0f;
    float scale[kPanel] = {}, shift[kPanel] = {};
    int64_t left = 0, group = 0;
    for (int64_t b = 0; b < depth.blocks; ++b) {
        if (left == 0) {
            left = depth.blocks_per_group;
            for (int o = 0; o < kPanel; ++o) {
                scale[o] = half_to_float(panel.scales[group * kPanel + o]);
                shift[o] = panel.shifts ? half_to_float(panel.shifts[group * kPanel + o]) : 0.0f;
            }
            ++group;
        }
        --left;
        int16_t wide[8 * kCodes];
        spread<kBits>(panel.codes + b * kBytes, wide);
        for (int r = 0; r < rows; ++r) {
            int32_t dot[kPanel];
            for (int o = 0; o < kPanel; ++o) dot[o] = x.start[r * x.block_stride + b];
            multiply_block<kBits>(wide, x.codes + r * x.code_stride + b * kBlock, dot);
            float sx = x.scale[r * x.block_stride + b], sum = x.sum[r * x.block_stride + b];
            float *yr = out + r * kPanel;
            for (int o = 0; o < kPanel; ++o) yr[o] += scale[o] * sx * static_cast<float>(dot[o]);
            if (panel.shifts)
                for (int o = 0; o < kPanel; ++o) yr[o] += shift[o] * sum;
        }
    }
}

// In 16 bits, as the products of 4-bit codes are; chains enough that each waits for none but itself.
int64_t multiply(int64_t rounds) {
    typedef int16_t lanes __attribute__((vector_size(16)));
    constexpr int kChains = 10;
    lanes sum[kChains] = {}, factor = {}, one = {};
    factor += 3, one += 1;
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 10
        for (int k = 0; k < kChains; ++k) sum[k] = sum[k] * factor + one;
    }
    int64_t seen = 0;
    for (int k = 0; k < kChains; ++k) seen |= sum[k][0];
    return seen ? rounds * kChains * 8 * 2 : 0;  // never 0, and not known to the compiler
}

}  // namespace

void quantise_plain(const float *x, int64_t blocks, int8_t *codes, float *scale, float *sum, int32_t *total) {
    for (int64_t b = 0; b < blocks; ++b, x += kBlock, codes += kBlock) {
        // As integers, magnitudes are in the order of the numbers, and NaN is above them all.
        int32_t bits[kBlock], most = 0;
        std::memcpy(bits, x, sizeof bits);
        for (int i = 0; i < kBlock; ++i) {
            int32_t magnitude = bits[i] & 0x7fffffff;
            most = magnitude > most ? magnitude : most;
        }
        float largest;
        std::memcpy(&largest, &most, 4);
        bool finite = most < 0x7f800000, some = finite && largest > 1e-30f;
        float inverse = some ? 127.0f / largest : 0.0f;
        int32_t all = 0;
        for (int i = 0; i < kBlock; ++i) {
            // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even.
            float shifted = (some ? x[i] * inverse : 0.0f) + 12582912.0f;
            int32_t code = static_cast<int32_t>(shifted - 12582912.0f);
            codes[i] = static_cast<int8_t>(code);
            all += code;
        }
        scale[b] = !finite ? std::numeric_limits<float>::quiet_NaN() : some ? largest / 127.0f : 0.0f;
        sum[b] = scale[b] * static_cast<float>(all);
        total[b] = all;
    }
}

const PackedKernels kPackedPortable = {"portable", tile<4>, tile<8>, quantise_plain, 4, false, &kAttentionPortable, multiply};

}  // namespace ostro
