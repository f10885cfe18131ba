// Checks the operations that are compiled once for several levels of the x86-64 architecture, on whatever processor runs
// this, an emulated one too. Prints which level that is; ends with 1 where a number is wrong.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "kernels.h"

using namespace ostro;

static bool near(double got, double expected) { return std::fabs(got - expected) <= 2e-6 * (1.0 + std::fabs(expected)); }

template <class T>
static uintptr_t at(std::vector<T> &values) {
    return reinterpret_cast<uintptr_t>(values.data());
}

int main() {
    std::mt19937 random(3);
    std::normal_distribution<float> normal(0.0f, 2.0f);
    int bad = 0;
    for (int64_t width : {1, 7, 32, 77, 1000}) {
        const int64_t rows = 3;
        const size_t count = static_cast<size_t>(rows * width);
        std::vector<float> x(count), weight(static_cast<size_t>(width)), out(count), both(2 * count);
        for (auto *values : {&x, &weight, &both})
            for (float &value : *values) value = normal(random);
        rms_norm(DType::f32, at(out), at(x), 0, at(weight), rows, width, 1e-5f);
        for (int64_t r = 0; r < rows; ++r) {
            double sum = 0;
            for (int64_t d = 0; d < width; ++d) sum += static_cast<double>(x[r * width + d]) * x[r * width + d];
            for (int64_t d = 0; d < width; ++d)
                bad += !near(out[r * width + d], x[r * width + d] / std::sqrt(sum / width + 1e-5) * weight[d]);
        }
        // One projection, and two side by side.
        for (const std::vector<int64_t> &sizes : {std::vector<int64_t>{width}, {width / 3, width - width / 3}}) {
            silu_mul(DType::f32, at(out), at(both), rows, sizes);
            for (int64_t r = 0; r < rows; ++r) {
                int64_t start = 0;
                for (int64_t size : sizes) {
                    for (int64_t d = 0; d < size; ++d) {
                        const float *of = both.data() + (r * width + start) * 2;
                        double gate = of[d], up = of[size + d];
                        bad += !near(out[r * width + start + d], gate / (1 + std::exp(-gate)) * up);
                    }
                    start += size;
                }
            }
        }
        std::vector<float> p(count);
        for (float &value : p) value = std::exp(normal(random)) / 1e4f;
        std::vector<double> draws(static_cast<size_t>(rows)), filters(static_cast<size_t>(3 * rows), 0.0);
        std::vector<int64_t> tokens(static_cast<size_t>(rows));
        for (int64_t r = 0; r < rows; ++r) draws[r] = 0.1 + 0.3 * r, filters[3 * r + 1] = 1.0;
        pick_tokens(at(tokens), at(p), width, at(draws), at(filters), rows, width);
        for (int64_t r = 0; r < rows; ++r) {
            double total = 0, before = 0;
            for (int64_t i = 0; i < width; ++i) total += p[r * width + i];
            for (int64_t i = 0; i < tokens[r]; ++i) before += p[r * width + i];
            const double target = draws[r] * total, slack = 1e-9 * total;
            bad += before > target + slack || before + p[r * width + tokens[r]] < target - slack;
        }
    }
    __builtin_cpu_init();
    const char *level = __builtin_cpu_supports("x86-64-v4") ? "x86-64-v4" : __builtin_cpu_supports("x86-64-v3") ? "x86-64-v3" : "default";
    std::printf("%s: %d wrong\n", level, bad);
    return bad ? 1 : 0;
}
