// A linear layer with quantised weights: the face that Python holds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels.h"
#include "packed.h"

namespace ostro {

// Which table of kernels runs: the best that the machine has, or the one that OSTRO_ISA names.
const PackedKernels &packed_kernels();
// Names of the tables that this build has and this machine can run, best first.
std::vector<std::string> packed_choices();
// Use one of them from now on; false if it is not among them.
bool choose_packed(const std::string &name);

// Codes [outputs, inputs], a byte each, into panels; `fill` is the code beyond the matrix.
void pack_codes(uintptr_t panels, uintptr_t codes, int64_t outputs, int64_t inputs, int bits, int fill);

// Ask for pages of 2 MiB for memory that is not touched yet: weights are read a tenth faster from them.
void advise_large_pages(uintptr_t address, int64_t size);

// Whether none of these float16 values is NaN or infinite.
bool all_finite_half(uintptr_t values, int64_t count);

// One matrix of a stacked layer. Addresses of arrays that outlive it; order is nullptr or [inputs].
struct Segment {
    const uint8_t *codes;
    const uint16_t *scales, *shifts;
    const int32_t *order;
    int64_t outputs, group_size;
    int bits;
};

class PackedLinear {
  public:
    explicit PackedLinear(int64_t inputs) : inputs_(inputs) {}

    // Stack one more matrix below the others. Its arrays are as kernels/packed_linear/layout.py says.
    void add(uintptr_t codes, uintptr_t scales, uintptr_t shifts, uintptr_t order, int64_t outputs, int bits,
             int64_t group_size);

    // out[rows, outputs] = x[rows, inputs] W^T; x rows are x_stride apart.
    void matmul(DType dtype, uintptr_t out, uintptr_t x, int64_t x_stride, int64_t rows) const;

    // Of two stacked matrices of equal size, gate and up: out[rows, outputs] = silu(x gate^T) * (x up^T).
    void gated(DType dtype, uintptr_t out, uintptr_t x, int64_t x_stride, int64_t rows) const;

    // out[rows, inputs] = the weight's rows `ids`, dequantised: an embedding.
    void lookup(DType dtype, uintptr_t out, uintptr_t ids, int64_t rows) const;

    int64_t inputs() const { return inputs_; }
    int64_t outputs() const { return outputs_; }

  private:
    void run(DType dtype, void *out, uintptr_t x, int64_t x_stride, int64_t rows, bool gated) const;

    std::vector<Segment> segments_;
    int64_t inputs_, outputs_ = 0;
};

}  // namespace ostro
