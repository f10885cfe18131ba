// What every kernel shares: element types, the clone attribute, a vectorisable exponential.
#pragma once

#include <cstdint>
#include <cstring>

// One body, compiled for several instruction sets; the loader picks at run time (ifunc). Where the toolchain has no such
// thing, the portable build is the only one. Levels of the architecture, because those are chosen by what the processor
// can do; `arch=haswell` would be chosen by the model's name, on those very models and whether it can or not.
#if defined(__x86_64__) && defined(__ELF__) && defined(__GNUC__) && !defined(__clang__)
#define OSTRO_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#define OSTRO_HAS_CLONES 1
#else
#define OSTRO_CLONES
#define OSTRO_HAS_CLONES 0
#endif

#define OSTRO_INLINE static inline __attribute__((always_inline))

namespace ostro {

struct bf16 {
    uint16_t bits;
};

OSTRO_INLINE float load(const float *p) { return *p; }

OSTRO_INLINE float load(const bf16 *p) {
    uint32_t wide = static_cast<uint32_t>(p->bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

OSTRO_INLINE void store(float *p, float value) { *p = value; }

OSTRO_INLINE void store(bf16 *p, float value) {
    uint32_t wide;
    std::memcpy(&wide, &value, 4);
    // Round to nearest even; a NaN keeps a set mantissa bit.
    uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
    uint32_t nan = (wide >> 16) | 0x40u;
    p->bits = static_cast<uint16_t>((wide & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

// e^x by 2^n * p(r), |r| <= ln2/2, with the degree-6 minimax polynomial of Cephes' expf; relative error
// under 2e-7 for x in [-87, 88], clamped outside. Branch-free, so that loops over it vectorise.
OSTRO_INLINE float exp_fast(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float t = x * 1.44269504088896341f;
    float n = static_cast<float>(static_cast<int32_t>(t + (t >= 0.0f ? 0.5f : -0.5f)));
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t power = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
    float scale;
    std::memcpy(&scale, &power, 4);
    return p * scale;
}

}  // namespace ostro
