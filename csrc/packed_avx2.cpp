#include <immintrin.h>

#include <cstring>

#include "packed.h"

// Compiled twice: for AVX2 alone, and for AVX2 with VNNI. A panel is done in two halves of 16 outputs, whose integer
// accumulators fit the registers for four rows. Half h has outputs 8 h + 0..7 and 16 + 8 h + 0..7, which is how the
// nibbles of 32 bytes lie.
namespace ostro {
namespace {

constexpr int64_t kAhead = 2048;

static inline __m256 eight_scales(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}

static inline __m256i load(const uint8_t *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }

// sum += codes x activations. Without VNNI, 4-bit codes sum up in 16 bits over a block, which cannot overflow
// (8 quads x 2 x 15 x 127 = 30480); 8-bit codes are signed, and |code| x (activation with the code's sign) stays
// within 2 x 128 x 127 = 32512.
template <int kBits>
static inline __attribute__((always_inline)) __m256i accumulate(__m256i sum, __m256i codes, __m256i spread,
                                                                __m256i ones) {
#ifdef OSTRO_AVXVNNI
    (void)ones;
    return _mm256_dpbusd_avx_epi32(sum, codes, spread);
#else
    if (kBits == 4) return _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, spread));
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(spread, codes));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
#endif
}

template <int kBits, int kRows, bool kShifted>
static inline __attribute__((always_inline)) void half_tile(const Panel &panel, Depth depth, const Activations &x,
                                                            float *out, int half) {
    constexpr int64_t kBytes = kPanel * kBlock * kBits / 8;
    const __m256i low_half = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    const __m256i flip = _mm256_set1_epi8(static_cast<char>(0x80));
#ifdef OSTRO_AVXVNNI
    constexpr bool kWide = true;
#else
    constexpr bool kWide = kBits == 8;
#endif
    (void)flip, (void)low_half, (void)ones;
    __m256 total[kRows][2];
    for (int r = 0; r < kRows; ++r) total[r][0] = total[r][1] = _mm256_setzero_ps();
    const uint8_t *codes = panel.codes + 32 * half;
    const int at0 = 8 * half, at1 = 16 + 8 * half;
    __m256 scale0 = _mm256_setzero_ps(), scale1 = scale0, shift0 = scale0, shift1 = scale0;
    int64_t left = 0, group = 0;
    for (int64_t b = 0; b < depth.blocks; ++b, codes += kBytes) {
        if (left == 0) {
            left = depth.blocks_per_group;
            const uint16_t *scales = panel.scales + group * kPanel;
            scale0 = eight_scales(scales + at0), scale1 = eight_scales(scales + at1);
            if (kShifted) {
                const uint16_t *shifts = panel.shifts + group * kPanel;
                shift0 = eight_scales(shifts + at0), shift1 = eight_scales(shifts + at1);
            }
            ++group;
        }
        --left;
        if (kRows > 1)
            for (int64_t at = 0; at < panel.ahead_step; at += 64)
                _mm_prefetch(reinterpret_cast<const char *>(panel.ahead + b * panel.ahead_step + at), _MM_HINT_T1);
        __m256i dot[kRows][2];
        for (int r = 0; r < kRows; ++r)
            dot[r][0] = dot[r][1] =
                kWide ? _mm256_set1_epi32(x.start[r * x.block_stride + b]) : _mm256_setzero_si256();
        const int8_t *xb = x.codes + b * kBlock;
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) {
            __m256i first, second;
            if (kBits == 4) {
                __m256i both = load(codes + 64 * j);
                first = _mm256_and_si256(both, low_half);
                second = _mm256_and_si256(_mm256_srli_epi16(both, 4), low_half);
                if (kRows == 1) _mm_prefetch(reinterpret_cast<const char *>(codes + 64 * j + kAhead), _MM_HINT_T0);
            } else {
                first = load(codes + 128 * j), second = load(codes + 128 * j + 64);
#ifndef OSTRO_AVXVNNI
                first = _mm256_xor_si256(first, flip), second = _mm256_xor_si256(second, flip);
#endif
                if (kRows == 1) {
                    _mm_prefetch(reinterpret_cast<const char *>(codes + 128 * j + kAhead), _MM_HINT_T0);
                    _mm_prefetch(reinterpret_cast<const char *>(codes + 128 * j + 64 + kAhead), _MM_HINT_T0);
                }
            }
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
                int32_t quad;
                std::memcpy(&quad, xb + r * x.code_stride + 4 * j, 4);
                __m256i spread = _mm256_set1_epi32(quad);
                dot[r][0] = accumulate<kBits>(dot[r][0], first, spread, ones);
                dot[r][1] = accumulate<kBits>(dot[r][1], second, spread, ones);
            }
        }
        for (int r = 0; r < kRows; ++r) {
            if (!kWide) {
                __m256i start = _mm256_set1_epi32(x.start[r * x.block_stride + b]);
                dot[r][0] = _mm256_add_epi32(_mm256_madd_epi16(dot[r][0], ones), start);
                dot[r][1] = _mm256_add_epi32(_mm256_madd_epi16(dot[r][1], ones), start);
            }
            __m256 sx = _mm256_set1_ps(x.scale[r * x.block_stride + b]);
            total[r][0] = _mm256_fmadd_ps(_mm256_mul_ps(scale0, sx), _mm256_cvtepi32_ps(dot[r][0]), total[r][0]);
            total[r][1] = _mm256_fmadd_ps(_mm256_mul_ps(scale1, sx), _mm256_cvtepi32_ps(dot[r][1]), total[r][1]);
            if (kShifted) {
                __m256 sum = _mm256_set1_ps(x.sum[r * x.block_stride + b]);
                total[r][0] = _mm256_fmadd_ps(shift0, sum, total[r][0]);
                total[r][1] = _mm256_fmadd_ps(shift1, sum, total[r][1]);
            }
        }
    }
    for (int r = 0; r < kRows; ++r) {
        _mm256_storeu_ps(out + r * kPanel + at0, total[r][0]);
        _mm256_storeu_ps(out + r * kPanel + at1, total[r][1]);
    }
}

// One row reads each line of the weights once, so both halves are done together.
template <int kBits, int kRows, bool kShifted>
static void tile(const Panel &panel, Depth depth, const Activations &x, float *out) {
    half_tile<kBits, kRows, kShifted>(panel, depth, x, out, 0);
    half_tile<kBits, kRows, kShifted>(panel, depth, x, out, 1);
}

template <int kBits, bool kShifted>
static void rows_of(const Panel &panel, Depth depth, const Activations &x, int rows, float *out) {
    switch (rows) {
        case 1: return tile<kBits, 1, kShifted>(panel, depth, x, out);
        case 2: return tile<kBits, 2, kShifted>(panel, depth, x, out);
        case 3: return tile<kBits, 3, kShifted>(panel, depth, x, out);
        default: return tile<kBits, 4, kShifted>(panel, depth, x, out);
    }
}

template <int kBits>
static void tile_any(const Panel &panel, Depth depth, const Activations &x, int rows, float *out) {
    if (panel.shifts)
        rows_of<kBits, true>(panel, depth, x, rows, out);
    else
        rows_of<kBits, false>(panel, depth, x, rows, out);
}

static inline int32_t most_of(__m256i values) {
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

static inline int32_t sum_of(__m256i values) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

static void quantise(const float *x, int64_t blocks, int8_t *codes, float *scale, float *sum, int32_t *total) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t b = 0; b < blocks; ++b, x += kBlock, codes += kBlock) {
        __m256 part[4];
        __m256i most = _mm256_setzero_si256();
        for (int i = 0; i < 4; ++i) {
            part[i] = _mm256_loadu_ps(x + 8 * i);
            // As integers, magnitudes are in the order of the numbers, and NaN is above them all.
            most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(part[i]), magnitude));
        }
        int32_t bits = most_of(most);
        float largest;
        std::memcpy(&largest, &bits, 4);
        bool finite = bits < 0x7f800000, some = finite && largest > 1e-30f;
        __m256 inverse = _mm256_set1_ps(some ? 127.0f / largest : 0.0f);
        __m256i whole[4], all = _mm256_setzero_si256();
        for (int i = 0; i < 4; ++i) {
            whole[i] = _mm256_cvtps_epi32(_mm256_mul_ps(some ? part[i] : _mm256_setzero_ps(), inverse));
            all = _mm256_add_epi32(all, whole[i]);
        }
        // The packs work within halves of a register; the permutation puts their quarters in order.
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]), _mm256_packs_epi32(whole[2], whole[3]));
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(codes), _mm256_permutevar8x32_epi32(bytes, order));
        uint32_t nan_bits = 0x7fc00000u;
        float nan;
        std::memcpy(&nan, &nan_bits, 4);
        float step = !finite ? nan : some ? largest / 127.0f : 0.0f;
        total[b] = sum_of(all);
        scale[b] = step;
        sum[b] = step * static_cast<float>(total[b]);
    }
}

static int64_t multiply(int64_t rounds) {
    __m256i sum[12], codes = _mm256_set1_epi8(3), values = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 12
    for (int k = 0; k < 12; ++k) sum[k] = _mm256_setzero_si256();
    for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
        for (int k = 0; k < 12; ++k) {
            sum[k] = accumulate<4>(sum[k], codes, values, ones);
            __asm__ volatile("" : "+x"(sum[k]), "+x"(values));  // or the product is made once
        }
    }
    return rounds * 12 * 32 * 2;
}

}  // namespace

#ifdef OSTRO_AVXVNNI
const PackedKernels kPackedAvxVnni = {"avx-vnni", tile_any<4>, tile_any<8>, quantise, 4, false, &kAttentionAvx2, multiply};
#else
const PackedKernels kPackedAvx2 = {"avx2", tile_any<4>, tile_any<8>, quantise, 4, true, &kAttentionAvx2, multiply};
#endif

}  // namespace ostro
