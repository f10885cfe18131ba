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

// To the nearest float16, ties to even; what is too large becomes infinity.
static inline __attribute__((always_inline)) uint16_t float_to_half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    uint32_t sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    if (rest >= 0x7f800000u) return static_cast<uint16_t>(sign | 0x7c00u | (rest > 0x7f800000u ? 0x200u : 0u));
    if (rest >= 0x38800000u) {
        // Normal numbers: the exponents' biases differ by 112; a carry of the rounding may reach infinity.
        uint32_t rounded = rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u);
        rounded = rounded >> 13;
        return static_cast<uint16_t>(sign | (rounded > 0x7c00u ? 0x7c00u : rounded));
    }
    // Subnormal: adding 0.5 shifts the bits to where a float's last places are worth 2^-24.
    float magnitude;
    std::memcpy(&magnitude, &rest, 4);
    magnitude += 0.5f;
    uint32_t shifted;
    std::memcpy(&shifted, &magnitude, 4);
    return static_cast<uint16_t>(sign | (shifted - 0x3f000000u));
}

}  // namespace ostro
