// Matrices of a GGUF file, straight from the file into panels.
#pragma once

#include <cstdint>
#include <string>

namespace ostro {

// How that went: what is positive is an errno of the file.
enum GGUFPack : int { kGGUFPacked = 0, kGGUFNotFinite = -1, kGGUFEnded = -2, kGGUFUnknown = -3 };

// Read the matrix [outputs, inputs] of ggml's type `kind` that begins at byte `offset` of the open file `fd`, and write
// panels, scales and, where the type has them, shifts as kernels/packed_linear/layout.py says. head_dim: rows of each
// head of that many go from rotary pairs to halves; 0 leaves them in their order. Memory: some rows of blocks a thread.
int pack_gguf(const std::string &kind, int fd, int64_t offset, int64_t outputs, int64_t inputs, int64_t head_dim,
              uintptr_t panels, uintptr_t scales, uintptr_t shifts);

}  // namespace ostro
