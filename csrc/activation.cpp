#include <numeric>

#include "common.h"
#include "kernels.h"
#include "parallel.h"

namespace ostro {
namespace {

template <class T>
OSTRO_INLINE void silu_rows(T *out, const T *gate_up, int64_t begin, int64_t end, const int64_t *sizes, int64_t parts,
                            int64_t width) {
    for (int64_t row = begin; row < end; ++row) {
        const T *gate = gate_up + row * 2 * width;
        T *yr = out + row * width;
        for (int64_t part = 0; part < parts; ++part) {
            const int64_t size = sizes[part];
            const T *up = gate + size;
#pragma omp simd
            for (int64_t f = 0; f < size; ++f) {
                float g = load(gate + f);
                store(yr + f, g / (1.0f + exp_fast(-g)) * load(up + f));
            }
            gate += 2 * size;
            yr += size;
        }
    }
}

OSTRO_CLONES void silu_f32(float *out, const float *gate_up, int64_t begin, int64_t end, const int64_t *sizes,
                           int64_t parts, int64_t width) {
    silu_rows(out, gate_up, begin, end, sizes, parts, width);
}

OSTRO_CLONES void silu_bf16(bf16 *out, const bf16 *gate_up, int64_t begin, int64_t end, const int64_t *sizes,
                            int64_t parts, int64_t width) {
    silu_rows(out, gate_up, begin, end, sizes, parts, width);
}

}  // namespace

void silu_mul(DType dtype, uintptr_t out, uintptr_t gate_up, int64_t rows, const std::vector<int64_t> &sizes) {
    const int64_t *first = sizes.data(), parts = static_cast<int64_t>(sizes.size());
    const int64_t width = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
    parallel_for(rows, width, [=](int64_t begin, int64_t end) {
        if (dtype == DType::f32)
            silu_f32(reinterpret_cast<float *>(out), reinterpret_cast<const float *>(gate_up), begin, end, first,
                     parts, width);
        else
            silu_bf16(reinterpret_cast<bf16 *>(out), reinterpret_cast<const bf16 *>(gate_up), begin, end, first,
                      parts, width);
    });
}

}  // namespace ostro
