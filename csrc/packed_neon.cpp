#include <arm_neon.h>

#include "packed.h"

// One q register holds 4 outputs x 4 inputs; sdot takes a quad of activations as a lane, both sides signed.
namespace ostro {
namespace {

static inline float32x4_t four_scales(const uint16_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

// Outputs 4 c .. 4 c + 3 of chunk c, and 16 more in 4-bit formats, for all rows.
template <int kBits, int kRows>
static inline __attribute__((always_inline)) void block(int32x4_t (&dot)[kRows][2], const uint8_t *codes,
                                                        const Activations &x, int64_t b, int chunk) {
    int8x16_t xs[kRows][2];
    for (int r = 0; r < kRows; ++r) {
        const int8_t *xb = x.codes + r * x.code_stride + b * kBlock;
        xs[r][0] = vld1q_s8(xb), xs[r][1] = vld1q_s8(xb + 16);
    }
#define OSTRO_QUAD(j, lane)                                                                              \
    {                                                                                                    \
        int8x16_t first, second;                                                                         \
        if (kBits == 4) {                                                                                \
            uint8x16_t both = vld1q_u8(codes + 64 * j + 16 * chunk);                                     \
            first = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));                                 \
            second = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));                                           \
        } else {                                                                                         \
            uint8x16_t flip = vdupq_n_u8(0x80);                                                          \
            first = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes + 128 * j + 16 * chunk), flip));         \
            second = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(codes + 128 * j + 64 + 16 * chunk), flip));   \
        }                                                                                                \
        for (int r = 0; r < kRows; ++r) {                                                                \
            dot[r][0] = vdotq_laneq_s32(dot[r][0], first, xs[r][j / 4], lane);                           \
            dot[r][1] = vdotq_laneq_s32(dot[r][1], second, xs[r][j / 4], lane);                          \
        }                                                                                                \
    }
    OSTRO_QUAD(0, 0)
    OSTRO_QUAD(1, 1)
    OSTRO_QUAD(2, 2)
    OSTRO_QUAD(3, 3)
    OSTRO_QUAD(4, 0)
    OSTRO_QUAD(5, 1)
    OSTRO_QUAD(6, 2)
    OSTRO_QUAD(7, 3)
#undef OSTRO_QUAD
}

template <int kBits, int kRows>
static void rows_of(const Panel &panel, Depth depth, const Activations &x, float *out) {
    constexpr int64_t kBytes = kPanel * kBlock * kBits / 8;
    float32x4_t total[kRows][8];
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < 8; ++c) total[r][c] = vdupq_n_f32(0.0f);
    for (int64_t b = 0; b < depth.blocks; ++b) {
        int64_t group = b / depth.blocks_per_group;
        const uint16_t *scales = panel.scales + group * kPanel;
        const uint16_t *shifts = panel.shifts ? panel.shifts + group * kPanel : nullptr;
        for (int chunk = 0; chunk < 4; ++chunk) {
            int32x4_t dot[kRows][2];
            for (int r = 0; r < kRows; ++r) dot[r][0] = dot[r][1] = vdupq_n_s32(x.start[r * x.block_stride + b]);
            block<kBits, kRows>(dot, panel.codes + b * kBytes, x, b, chunk);
            for (int h = 0; h < 2; ++h) {
                int at = chunk + 4 * h;
                float32x4_t scale = four_scales(scales + 4 * at);
                for (int r = 0; r < kRows; ++r) {
                    float sx = x.scale[r * x.block_stride + b];
                    total[r][at] = vfmaq_f32(total[r][at], vmulq_n_f32(scale, sx), vcvtq_f32_s32(dot[r][h]));
                    if (shifts)
                        total[r][at] =
                            vfmaq_n_f32(total[r][at], four_scales(shifts + 4 * at), x.sum[r * x.block_stride + b]);
                }
            }
        }
    }
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < 8; ++c) vst1q_f32(out + r * kPanel + 4 * c, total[r][c]);
}

template <int kBits>
static void tile(const Panel &panel, Depth depth, const Activations &x, int rows, float *out) {
    switch (rows) {
        case 1: return rows_of<kBits, 1>(panel, depth, x, out);
        case 2: return rows_of<kBits, 2>(panel, depth, x, out);
        case 3: return rows_of<kBits, 3>(panel, depth, x, out);
        default: return rows_of<kBits, 4>(panel, depth, x, out);
    }
}

static int64_t multiply(int64_t rounds) {
    constexpr int kChains = 12;
    int32x4_t sum[kChains];
    const int8x16_t codes = vdupq_n_s8(3), values = vdupq_n_s8(5);
    for (int k = 0; k < kChains; ++k) sum[k] = vdupq_n_s32(0);
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
        for (int k = 0; k < kChains; ++k) {
            sum[k] = vdotq_s32(sum[k], codes, values);
            __asm__ volatile("" : "+w"(sum[k]));  // or all rounds are made one
        }
    }
    return rounds * kChains * 16 * 2;
}

}  // namespace

const PackedKernels kPackedNeonDot = {"neon-dotprod", tile<4>, tile<8>, quantise_plain, 4, true, &kAttentionPortable, multiply};

}  // namespace ostro
