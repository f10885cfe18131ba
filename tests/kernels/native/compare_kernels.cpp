// Compares one instruction set's tiles with the portable ones, for tests that cannot load the module: kernels for a
// processor that is emulated. Prints the largest difference in parts of the result's size, and how many tiles were
// compared; ends with 1 where they differ.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "packed.h"

namespace ostro {
const AttentionKernels kAttentionPortable{};
#ifdef OSTRO_ATTENTION  // what the table of the tested kernels refers to
const AttentionKernels OSTRO_ATTENTION{};
#endif
}

using namespace ostro;

int main() {
    std::mt19937 random(7);
    double worst = 0;
    int tiles = 0;
    for (int bits : {4, 8})
        for (bool shifted : {false, true})
            for (int64_t blocks : {1, 2, 4, 9})
                for (int64_t per_group : {int64_t{1}, blocks})
                    for (int rows = 1; rows <= OSTRO_TESTED.max_rows; ++rows) {
                        const int64_t stride = blocks * kBlock + 64, groups = blocks / per_group;
                        std::vector<uint8_t> codes(static_cast<size_t>(blocks * kPanel * kBlock * bits / 8));
                        for (uint8_t &code : codes) code = static_cast<uint8_t>(random());
                        std::vector<uint16_t> scales(static_cast<size_t>(groups * kPanel)), shifts(scales.size());
                        // float16 between 1/4 and 2, and of either sign for shifts.
                        for (uint16_t &scale : scales) scale = static_cast<uint16_t>(0x3400 + random() % 0xc00);
                        for (uint16_t &shift : shifts) shift = static_cast<uint16_t>(0x3400 + random() % 0xc00 + (random() % 2 << 15));
                        std::vector<float> x(static_cast<size_t>(rows * blocks * kBlock));
                        for (float &value : x) value = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
                        std::vector<int8_t> quantised(static_cast<size_t>(rows * stride));
                        const size_t count = static_cast<size_t>(rows * (blocks + 8));
                        std::vector<float> scale(count), sum(count);
                        std::vector<int32_t> total(count), start(count);
                        float got[8 * kPanel], expected[8 * kPanel];
                        for (int side = 0; side < 2; ++side) {
                            const PackedKernels &kernels = side ? OSTRO_TESTED : kPackedPortable;
                            for (int r = 0; r < rows; ++r)
                                kernels.quantise(x.data() + r * blocks * kBlock, blocks, quantised.data() + r * stride,
                                                 scale.data() + r * (blocks + 8), sum.data() + r * (blocks + 8),
                                                 total.data() + r * (blocks + 8));
                            // As packed_linear.cpp has it: what an accumulator must begin with.
                            int32_t offset = (bits == 8 && kernels.signed8 ? 128 : 0) - (shifted ? 0 : 1 << (bits - 1));
                            for (size_t i = 0; i < count; ++i) start[i] = offset * total[i];
                            Panel panel{codes.data(), scales.data(), shifted ? shifts.data() : nullptr, nullptr, 0};
                            Activations given{quantised.data(), scale.data(), sum.data(), start.data(), stride, blocks + 8};
                            (bits == 4 ? kernels.tile4 : kernels.tile8)(panel, Depth{blocks, per_group}, given, rows,
                                                                        side ? got : expected);
                        }
                        double size = 0, error = 0;
                        for (int i = 0; i < rows * kPanel; ++i) {
                            size = std::max(size, std::fabs(static_cast<double>(expected[i])));
                            error = std::max(error, std::fabs(static_cast<double>(got[i]) - expected[i]));
                        }
                        worst = std::max(worst, error / size);
                        ++tiles;
                    }
    if (OSTRO_TESTED.multiply(10) <= 0) return 1;
    std::printf("%d tiles, largest difference %.2g\n", tiles, worst);
    return tiles > 0 && worst < 1e-6 ? 0 : 1;
}
