// float16 and float8 numbers without hardware for them.
#pragma once

#include <cstdint>
#include <cstring>

namespace ostro {

static inline __attribute__((always_inline)) float half_to_float(uint16_t half) {
    uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16, rest = half & 0x7fffu, bits;
    if (rest >= 0x7c00u) {
        bits = sign | 0x7f800000u | ((rest & 0x3ffu) << 13);
    } else {
        // Shifted into place, then the difference of the exponents' biases multiplied in: right for subnormals too.
        bits = rest << 13;
        float value;
        std::memcpy(&value, &bits, 4);
        value *= 5.192296858534828e33f;  // 2^112
        std::memcpy(&bits, &value, 4);
        bits |= sign;
    }
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

}  // namespace ostro
