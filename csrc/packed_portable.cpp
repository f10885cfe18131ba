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

const PackedKernels kPackedPortable = {"portable", tile<4>, tile<8>, 4, false};

}  // namespace ostro
