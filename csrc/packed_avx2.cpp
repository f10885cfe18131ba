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

// kHalves halves of a panel, from the first or, of one only, from `half` on. Registers c of a tile: half c / 2, its low
// nibbles (outputs 8 h + 0..7) or high ones (16 + 8 h + 0..7).
template <int kBits, int kRows, int kHalves, bool kShifted>
static inline __attribute__((always_inline)) void part_tile(const Panel &panel, Depth depth, const Activations &x,
                                                            float *out, int half) {
    constexpr int64_t kBytes = kPanel * kBlock * kBits / 8;
    constexpr int kColumns = 2 * kHalves;
    const __m256i low_half = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    const __m256i flip = _mm256_set1_epi8(static_cast<char>(0x80));
#ifdef OSTRO_AVXVNNI
    constexpr bool kWide = true;
#else
    constexpr bool kWide = kBits == 8;
#endif
    (void)flip, (void)low_half, (void)ones;
    __m256 total[kRows][kColumns], scale[kColumns], shift[kColumns];
    for (int c = 0; c < kColumns; ++c) {
        scale[c] = shift[c] = _mm256_setzero_ps();
        for (int r = 0; r < kRows; ++r) total[r][c] = _mm256_setzero_ps();
    }
    const uint8_t *codes = panel.codes + 32 * half;
    int at[kColumns];
    for (int c = 0; c < kColumns; ++c) at[c] = 8 * (half + c / 2) + 16 * (c % 2);
    int64_t left = 0, group = 0;
    for (int64_t b = 0; b < depth.blocks; ++b, codes += kBytes) {
        if (left == 0) {
            left = depth.blocks_per_group;
            for (int c = 0; c < kColumns; ++c) {
                scale[c] = eight_scales(panel.scales + group * kPanel + at[c]);
                if (kShifted) shift[c] = eight_scales(panel.shifts + group * kPanel + at[c]);
            }
            ++group;
        }
        --left;
        if (kRows > 1)
            for (int64_t step = 0; step < panel.ahead_step; step += 64)
                _mm_prefetch(reinterpret_cast<const char *>(panel.ahead + b * panel.ahead_step + step), _MM_HINT_T1);
        __m256i dot[kRows][kColumns];
        for (int r = 0; r < kRows; ++r)
            for (int c = 0; c < kColumns; ++c)
                dot[r][c] = kWide ? _mm256_set1_epi32(x.start[r * x.block_stride + b]) : _mm256_setzero_si256();
        const int8_t *xb = x.codes + b * kBlock;
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) {
            if (kRows == 1)
                for (int line = 0; line < kBits / 4; ++line)
                    _mm_prefetch(reinterpret_cast<const char *>(codes + 16 * kBits * j + 64 * line + kAhead), _MM_HINT_T0);
            __m256i word[kColumns];
#pragma GCC unroll 2
            for (int h = 0; h < kHalves; ++h) {
                if (kBits == 4) {
                    __m256i both = load(codes + 64 * j + 32 * h);
                    word[2 * h] = _mm256_and_si256(both, low_half);
                    word[2 * h + 1] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low_half);
                } else {
                    word[2 * h] = load(codes + 128 * j + 32 * h), word[2 * h + 1] = load(codes + 128 * j + 64 + 32 * h);
#ifndef OSTRO_AVXVNNI
                    word[2 * h] = _mm256_xor_si256(word[2 * h], flip);
                    word[2 * h + 1] = _mm256_xor_si256(word[2 * h + 1], flip);
#endif
                }
            }
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
                int32_t quad;
                std::memcpy(&quad, xb + r * x.code_stride + 4 * j, 4);
                __m256i spread = _mm256_set1_epi32(quad);
#pragma GCC unroll 4
                for (int c = 0; c < kColumns; ++c) {
                    dot[r][c] = accumulate<kBits>(dot[r][c], word[c], spread, ones);
                    // Or GCC makes all products of a block first, puts them on the stack, and adds them up
                    // afterwards: a third of the speed was lost to that.
                    __asm__("" : "+x"(dot[r][c]));
                }
            }
        }
        for (int r = 0; r < kRows; ++r) {
            const __m256 sx = _mm256_set1_ps(x.scale[r * x.block_stride + b]);
            const __m256i start = _mm256_set1_epi32(x.start[r * x.block_stride + b]);
            (void)start;
            for (int c = 0; c < kColumns; ++c) {
                if (!kWide) dot[r][c] = _mm256_add_epi32(_mm256_madd_epi16(dot[r][c], ones), start);
                total[r][c] = _mm256_fmadd_ps(_mm256_mul_ps(scale[c], sx), _mm256_cvtepi32_ps(dot[r][c]), total[r][c]);
                if (kShifted)
                    total[r][c] = _mm256_fmadd_ps(shift[c], _mm256_set1_ps(x.sum[r * x.block_stride + b]), total[r][c]);
            }
        }
    }
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kColumns; ++c) _mm256_storeu_ps(out + r * kPanel + at[c], total[r][c]);
}

// One row has registers for both halves, and reads each line of the weights once.
template <int kBits, int kRows, bool kShifted>
static void tile(const Panel &panel, Depth depth, const Activations &x, float *out) {
    if (kRows == 1) return part_tile<kBits, kRows, 2, kShifted>(panel, depth, x, out, 0);
    part_tile<kBits, kRows, 1, kShifted>(panel, depth, x, out, 0);
    part_tile<kBits, kRows, 1, kShifted>(panel, depth, x, out, 1);
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
