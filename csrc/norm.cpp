#include <cmath>

#include "common.h"
#include "kernels.h"
#include "parallel.h"

namespace ostro {
namespace {

template <class T>
OSTRO_INLINE void norm_rows(T *out, T *x, const T *residual, const T *weight, int64_t begin, int64_t end,
                            int64_t width, float eps) {
    for (int64_t row = begin; row < end; ++row) {
        T *xr = x + row * width;
        T *yr = out + row * width;
        float sum = 0.0f;
        if (residual) {
            const T *rr = residual + row * width;
#pragma omp simd
            for (int64_t d = 0; d < width; ++d) store(xr + d, load(xr + d) + load(rr + d));
        }
#pragma omp simd reduction(+ : sum)
        for (int64_t d = 0; d < width; ++d) {
            float value = load(xr + d);
            sum += value * value;
        }
        float inverse = 1.0f / std::sqrt(sum / static_cast<float>(width) + eps);
#pragma omp simd
        for (int64_t d = 0; d < width; ++d) store(yr + d, load(xr + d) * inverse * load(weight + d));
    }
}

OSTRO_CLONES void norm_f32(float *out, float *x, const float *residual, const float *weight, int64_t begin,
                           int64_t end, int64_t width, float eps) {
    norm_rows(out, x, residual, weight, begin, end, width, eps);
}

OSTRO_CLONES void norm_bf16(bf16 *out, bf16 *x, const bf16 *residual, const bf16 *weight, int64_t begin,
                            int64_t end, int64_t width, float eps) {
    norm_rows(out, x, residual, weight, begin, end, width, eps);
}

}  // namespace

void rms_norm(DType dtype, uintptr_t out, uintptr_t x, uintptr_t residual, uintptr_t weight, int64_t rows,
              int64_t width, float eps) {
    parallel_for(rows, width / 2, [=](int64_t begin, int64_t end) {
        if (dtype == DType::f32)
            norm_f32(reinterpret_cast<float *>(out), reinterpret_cast<float *>(x),
                     reinterpret_cast<const float *>(residual), reinterpret_cast<const float *>(weight), begin,
                     end, width, eps);
        else
            norm_bf16(reinterpret_cast<bf16 *>(out), reinterpret_cast<bf16 *>(x),
                      reinterpret_cast<const bf16 *>(residual), reinterpret_cast<const bf16 *>(weight), begin,
                      end, width, eps);
    });
}

}  // namespace ostro
