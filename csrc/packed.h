// Products with quantised weights: the panel layout (kernels/packed_linear/layout.py describes it) and the table of
// kernels that each instruction set fills. Files that are compiled for one instruction set include only this and
// intrinsics: a function of the standard library that they instantiated could be linked into code for other machines.
#pragma once

#include <cstdint>

#include "attention.h"

namespace ostro {

constexpr int kPanel = 32;  // outputs of a panel
constexpr int kBlock = 32;  // inputs that share an activation scale

// One panel of a weight. shifts: nullptr where the format is symmetric. ahead: what will be read next, to be fetched
// meanwhile, ahead_step bytes a block (a multiple of 64, 0 for none): a tile of several rows has time for that.
struct Panel {
    const uint8_t *codes;
    const uint16_t *scales;
    const uint16_t *shifts;
    const uint8_t *ahead;
    int64_t ahead_step;
};

// Inputs of a panel: `blocks` of 32, `blocks_per_group` of them share a weight scale.
struct Depth {
    int64_t blocks, blocks_per_group;
};

// Activations as int8 with one scale a block of 32 inputs: the value is scale * code. start: what an integer
// accumulator begins with, so that the codes' offset is gone at its end. sum: scale * (sum of the block's codes).
struct Activations {
    const int8_t *codes;
    const float *scale;
    const float *sum;
    const int32_t *start;
    int64_t code_stride, block_stride;
};

// out[row, o] = the panel's product with `rows` rows of activations, rows <= max_rows; out is [rows, 32].
using TileFn = void (*)(const Panel &panel, Depth depth, const Activations &x, int rows, float *out);

// `blocks` whole blocks of activations to int8: codes, scale = max|x| / 127, sum = scale * total, total = sum of codes.
// Codes are round(x * (127 / max|x|)), ties to even. A block without anything above 1e-30 is all zeros; one with a NaN
// or an infinity has the scale NaN, so that no number comes out of it.
using QuantiseFn = void (*)(const float *x, int64_t blocks, int8_t *codes, float *scale, float *sum, int32_t *total);

struct PackedKernels {
    const char *name;
    TileFn tile4, tile8;
    QuantiseFn quantise;
    int max_rows;
    bool signed8;  // tile8 reads codes as signed numbers, code - 128
    const AttentionKernels *attention;
    int64_t (*multiply)(int64_t rounds);  // multiplies registers only; gives how many multiplications and additions
};

extern const PackedKernels kPackedPortable;
// The portable QuantiseFn, for instruction sets without one of their own.
void quantise_plain(const float *x, int64_t blocks, int8_t *codes, float *scale, float *sum, int32_t *total);
#if defined(__x86_64__) && defined(OSTRO_X86_KERNELS)
extern const PackedKernels kPackedAvx2, kPackedAvxVnni, kPackedAvx512Vnni;
#endif
#if defined(__aarch64__) && defined(OSTRO_ARM_KERNELS)
extern const PackedKernels kPackedNeonDot;
#endif

}  // namespace ostro
