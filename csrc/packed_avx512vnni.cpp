#include <immintrin.h>

#include <cstring>

#include "packed.h"

// One zmm holds 16 outputs x 4 inputs; vpdpbusd takes the codes as they are (unsigned) and the activations signed.
namespace ostro {
namespace {

// Far enough ahead to cover memory latency at full read speed, near enough to stay in the first-level cache.
constexpr int64_t kAhead = 2048, kAheadScales = 512;

static inline __m512 half_scales(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}

template <int kBits, int kRows, bool kShifted>
static inline __attribute__((always_inline)) void tile(const Panel &panel, Depth depth, const Activations &x,
                                                       float *out) {
    constexpr int64_t kBytes = kPanel * kBlock * kBits / 8;
    const __m512i low_half = _mm512_set1_epi8(15);
    __m512 total[kRows][2];
    for (int r = 0; r < kRows; ++r) total[r][0] = total[r][1] = _mm512_setzero_ps();
    const uint8_t *codes = panel.codes;
    __m512 scale0 = _mm512_setzero_ps(), scale1 = scale0, shift0 = scale0, shift1 = scale0;
    int64_t left = 0, group = 0;
    for (int64_t b = 0; b < depth.blocks; ++b, codes += kBytes) {
        if (left == 0) {
            left = depth.blocks_per_group;
            scale0 = half_scales(panel.scales + group * kPanel), scale1 = half_scales(panel.scales + group * kPanel + 16);
            if (kShifted) {
                shift0 = half_scales(panel.shifts + group * kPanel);
                shift1 = half_scales(panel.shifts + group * kPanel + 16);
            }
            if (kRows == 1) {
                const char *later = reinterpret_cast<const char *>(panel.scales + group * kPanel) + kAheadScales;
                _mm_prefetch(later, _MM_HINT_T0);
                if (kShifted) {
                    later = reinterpret_cast<const char *>(panel.shifts + group * kPanel) + kAheadScales;
                    _mm_prefetch(later, _MM_HINT_T0);
                }
            }
            ++group;
        }
        --left;
        if (kRows > 1)
            for (int64_t at = 0; at < panel.ahead_step; at += 64)
                _mm_prefetch(reinterpret_cast<const char *>(panel.ahead + b * panel.ahead_step + at), _MM_HINT_T1);
        __m512i dot[kRows][2];
        for (int r = 0; r < kRows; ++r) dot[r][0] = dot[r][1] = _mm512_set1_epi32(x.start[r * x.block_stride + b]);
        const int8_t *xb = x.codes + b * kBlock;
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) {
            __m512i first, second;
            if (kBits == 4) {
                __m512i both = _mm512_loadu_si512(codes + 64 * j);
                first = _mm512_and_si512(both, low_half);
                second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low_half);
                if (kRows == 1) _mm_prefetch(reinterpret_cast<const char *>(codes + 64 * j + kAhead), _MM_HINT_T0);
            } else {
                first = _mm512_loadu_si512(codes + 128 * j), second = _mm512_loadu_si512(codes + 128 * j + 64);
                if (kRows == 1) {
                    _mm_prefetch(reinterpret_cast<const char *>(codes + 128 * j + kAhead), _MM_HINT_T0);
                    _mm_prefetch(reinterpret_cast<const char *>(codes + 128 * j + 64 + kAhead), _MM_HINT_T0);
                }
            }
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
                int32_t quad;
                std::memcpy(&quad, xb + r * x.code_stride + 4 * j, 4);
                __m512i spread = _mm512_set1_epi32(quad);
                dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], first, spread);
                dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], second, spread);
            }
        }
        for (int r = 0; r < kRows; ++r) {
            __m512 sx = _mm512_set1_ps(x.scale[r * x.block_stride + b]);
            total[r][0] = _mm512_fmadd_ps(_mm512_mul_ps(scale0, sx), _mm512_cvtepi32_ps(dot[r][0]), total[r][0]);
            total[r][1] = _mm512_fmadd_ps(_mm512_mul_ps(scale1, sx), _mm512_cvtepi32_ps(dot[r][1]), total[r][1]);
            if (kShifted) {
                __m512 sum = _mm512_set1_ps(x.sum[r * x.block_stride + b]);
                total[r][0] = _mm512_fmadd_ps(shift0, sum, total[r][0]);
                total[r][1] = _mm512_fmadd_ps(shift1, sum, total[r][1]);
            }
        }
    }
    for (int r = 0; r < kRows; ++r) {
        _mm512_storeu_ps(out + r * kPanel, total[r][0]);
        _mm512_storeu_ps(out + r * kPanel + 16, total[r][1]);
    }
}

template <int kBits, bool kShifted>
static void rows_of(const Panel &panel, Depth depth, const Activations &x, int rows, float *out) {
    switch (rows) {
        case 1: return tile<kBits, 1, kShifted>(panel, depth, x, out);
        case 2: return tile<kBits, 2, kShifted>(panel, depth, x, out);
        case 3: return tile<kBits, 3, kShifted>(panel, depth, x, out);
        case 4: return tile<kBits, 4, kShifted>(panel, depth, x, out);
        case 5: return tile<kBits, 5, kShifted>(panel, depth, x, out);
        case 6: return tile<kBits, 6, kShifted>(panel, depth, x, out);
        case 7: return tile<kBits, 7, kShifted>(panel, depth, x, out);
        default: return tile<kBits, 8, kShifted>(panel, depth, x, out);
    }
}

template <int kBits>
static void tile_any(const Panel &panel, Depth depth, const Activations &x, int rows, float *out) {
    if (panel.shifts)
        rows_of<kBits, true>(panel, depth, x, rows, out);
    else
        rows_of<kBits, false>(panel, depth, x, rows, out);
}

static void quantise(const float *x, int64_t blocks, int8_t *codes, float *scale, float *sum, int32_t *total) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    for (int64_t b = 0; b < blocks; ++b, x += kBlock, codes += kBlock) {
        __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
        // As integers, magnitudes are in the order of the numbers, and NaN is above them all.
        __m512i most = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low), magnitude),
                                        _mm512_and_si512(_mm512_castps_si512(high), magnitude));
        int32_t bits = _mm512_reduce_max_epi32(most);
        float largest;
        std::memcpy(&largest, &bits, 4);
        bool finite = bits < 0x7f800000, some = finite && largest > 1e-30f;
        if (!some) low = high = _mm512_setzero_ps();
        __m512 inverse = _mm512_set1_ps(some ? 127.0f / largest : 0.0f);
        __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
        __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(codes), _mm512_cvtepi32_epi8(first));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(codes + 16), _mm512_cvtepi32_epi8(second));
        int32_t all = _mm512_reduce_add_epi32(_mm512_add_epi32(first, second));
        uint32_t nan_bits = 0x7fc00000u;
        float step, nan;
        std::memcpy(&nan, &nan_bits, 4);
        step = !finite ? nan : some ? largest / 127.0f : 0.0f;
        scale[b] = step;
        sum[b] = step * static_cast<float>(all);
        total[b] = all;
    }
}

static int64_t multiply(int64_t rounds) {
    __m512i sum[12], codes = _mm512_set1_epi8(3), values = _mm512_set1_epi8(5);
#pragma GCC unroll 12
    for (int k = 0; k < 12; ++k) sum[k] = _mm512_setzero_si512();
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
        for (int k = 0; k < 12; ++k) {
            sum[k] = _mm512_dpbusd_epi32(sum[k], codes, values);
            __asm__ volatile("" : "+v"(sum[k]));
        }
    }
    return rounds * 12 * 64 * 2;
}

}  // namespace

const PackedKernels kPackedAvx512Vnni = {"avx512-vnni", tile_any<4>, tile_any<8>, quantise, 6, false, &kAttentionAvx512,
                                         multiply};

}  // namespace ostro
