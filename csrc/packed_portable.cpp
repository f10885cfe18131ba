#include <limits>

#include "half.h"
#include "packed.h"

// Plain loops that any compiler can vectorise; what runs where there is nothing better, and what `OSTRO_ISA=portable`
// selects.
namespace ostro {
namespace {

template <int kBits>
void tile(const Panel &panel, Depth depth, const Activations &x, int rows, float *out) {
    constexpr int64_t kBytes = kPanel * kBlock * kBits / 8, kQuad = kBytes / 8;
    for (int i = 0; i < rows * kPanel; ++i) out[i] = 0.0f;
    for (int64_t b = 0; b < depth.blocks; ++b) {
        const uint8_t *codes = panel.codes + b * kBytes;
        int64_t group = b / depth.blocks_per_group;
        float scale[kPanel], shift[kPanel];
        for (int o = 0; o < kPanel; ++o) {
            scale[o] = half_to_float(panel.scales[group * kPanel + o]);
            shift[o] = panel.shifts ? half_to_float(panel.shifts[group * kPanel + o]) : 0.0f;
        }
        for (int r = 0; r < rows; ++r) {
            const int8_t *xb = x.codes + r * x.code_stride + b * kBlock;
            int32_t dot[kPanel];
            for (int o = 0; o < kPanel; ++o) dot[o] = x.start[r * x.block_stride + b];
            for (int j = 0; j < 8; ++j) {
                const uint8_t *quad = codes + kQuad * j;
                for (int k = 0; k < 4; ++k) {
                    int32_t value = xb[4 * j + k];
                    for (int o = 0; o < kPanel; ++o) {
                        int32_t code;
                        if (kBits == 4)
                            code = o < 16 ? quad[4 * o + k] & 15 : quad[4 * (o - 16) + k] >> 4;
                        else
                            code = quad[4 * o + k];
                        dot[o] += code * value;
                    }
                }
            }
            float sx = x.scale[r * x.block_stride + b], sum = x.sum[r * x.block_stride + b];
            float *yr = out + r * kPanel;
            for (int o = 0; o < kPanel; ++o) yr[o] += scale[o] * sx * static_cast<float>(dot[o]);
            if (panel.shifts)
                for (int o = 0; o < kPanel; ++o) yr[o] += shift[o] * sum;
        }
    }
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

const PackedKernels kPackedPortable = {"portable", tile<4>, tile<8>, quantise_plain, 4, false, &kAttentionPortable, nullptr};

}  // namespace ostro
