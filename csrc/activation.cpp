#include "common.h"
#include "kernels.h"
#include "parallel.h"

namespace ostro {
namespace {

template <class T>
OSTRO_INLINE void silu_rows(T *out, const T *gate_up, int64_t begin, int64_t end, int64_t width) {
    for (int64_t row = begin; row < end; ++row) {
        const T *gate = gate_up + row * 2 * width;
        const T *up = gate + width;
        T *yr = out + row * width;
#pragma omp simd
        for (int64_t f = 0; f < width; ++f) {
            float g = load(gate + f);
            store(yr + f, g / (1.0f + exp_fast(-g)) * load(up + f));
        }
    }
}

OSTRO_CLONES void silu_f32(float *out, const float *gate_up, int64_t begin, int64_t end, int64_t width) {
    silu_rows(out, gate_up, begin, end, width);
}

OSTRO_CLONES void silu_bf16(bf16 *out, const bf16 *gate_up, int64_t begin, int64_t end, int64_t width) {
    silu_rows(out, gate_up, begin, end, width);
}

}  // namespace

void silu_mul(DType dtype, uintptr_t out, uintptr_t gate_up, int64_t rows, int64_t width) {
    parallel_for(rows, width, [=](int64_t begin, int64_t end) {
        if (dtype == DType::f32)
            silu_f32(reinterpret_cast<float *>(out), reinterpret_cast<const float *>(gate_up), begin, end, width);
        else
            silu_bf16(reinterpret_cast<bf16 *>(out), reinterpret_cast<const bf16 *>(gate_up), begin, end, width);
    });
}

}  // namespace ostro
