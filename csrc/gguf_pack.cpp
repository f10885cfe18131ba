#include "gguf_pack.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <vector>

#include "half.h"
#include "packed.h"
#include "parallel.h"

// What a block means is written down in src/ostro/weights/gguf_blocks.py, whose arithmetic this follows bit by bit.
namespace ostro {
namespace {

constexpr int kGroup = 32;  // weights that share a scale once they are read

uint16_t half_at(const uint8_t *p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

// All low halves, then all high halves, as ggml packs n weights in n / 2 bytes.
inline void nibbles(uint8_t *codes, const uint8_t *packed, int n) {
    for (int i = 0; i < n / 2; ++i) codes[i] = packed[i] & 15, codes[i + n / 2] = packed[i] >> 4;
}

inline void fifth_bits(uint8_t *codes, const uint8_t *packed) {
    uint32_t bits;
    std::memcpy(&bits, packed, 4);
    for (int i = 0; i < kGroup; ++i) codes[i] = static_cast<uint8_t>(codes[i] | (bits >> i & 1) << 4);
}

// A type: bytes of a block and its groups, bits and whether there are shifts once it is read. decode writes the codes
// of a block [kGroups, 32], and its scales and shifts.
struct Q4_0 {
    static constexpr int kBytes = 18, kGroups = 1, kBits = 4;
    static constexpr bool kShifted = false;
    static void decode(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *) {
        *scale = half_at(b);
        nibbles(codes, b + 2, kGroup);
    }
};

struct Q4_1 {
    static constexpr int kBytes = 20, kGroups = 1, kBits = 4;
    static constexpr bool kShifted = true;
    static void decode(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *shift) {
        *scale = half_at(b), *shift = half_at(b + 2);
        nibbles(codes, b + 4, kGroup);
    }
};

struct Q5_0 {
    static constexpr int kBytes = 22, kGroups = 1, kBits = 8;
    static constexpr bool kShifted = false;
    static void decode(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *) {
        *scale = half_at(b);
        nibbles(codes, b + 6, kGroup);
        fifth_bits(codes, b + 2);
        for (int i = 0; i < kGroup; ++i) codes[i] = static_cast<uint8_t>(codes[i] + 128 - 16);
    }
};

struct Q5_1 {
    static constexpr int kBytes = 24, kGroups = 1, kBits = 8;
    static constexpr bool kShifted = true;
    static void decode(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *shift) {
        *scale = half_at(b), *shift = half_at(b + 2);
        nibbles(codes, b + 8, kGroup);
        fifth_bits(codes, b + 4);
    }
};

struct Q8_0 {
    static constexpr int kBytes = 34, kGroups = 1, kBits = 8;
    static constexpr bool kShifted = false;
    static void decode(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *) {
        *scale = half_at(b);
        for (int i = 0; i < kGroup; ++i) codes[i] = b[2 + i] ^ 128;
    }
};

// Scales and shifts of Q4_K and Q5_K: 8 groups have 6-bit s and t in the 12 bytes from b + 4 on.
void k_groups(const uint8_t *b, uint16_t *scale, uint16_t *shift) {
    const float d = half_to_float(half_at(b)), m = -half_to_float(half_at(b + 2));
    const uint8_t *q = b + 4;
    for (int g = 0; g < 8; ++g) {
        int s = g < 4 ? q[g] & 63 : (q[g + 4] & 15) | (q[g - 4] >> 6) << 4;
        int t = g < 4 ? q[g + 4] & 63 : (q[g + 4] >> 4) | (q[g] >> 6) << 4;
        scale[g] = float_to_half(d * static_cast<float>(s)), shift[g] = float_to_half(m * static_cast<float>(t));
    }
}

struct Q4_K {
    static constexpr int kBytes = 144, kGroups = 8, kBits = 4;
    static constexpr bool kShifted = true;
    static void decode(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *shift) {
        k_groups(b, scale, shift);
        for (int pair = 0; pair < 4; ++pair) nibbles(codes + 64 * pair, b + 16 + 32 * pair, 64);
    }
};

struct Q5_K {
    static constexpr int kBytes = 176, kGroups = 8, kBits = 8;
    static constexpr bool kShifted = true;
    static void decode(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *shift) {
        k_groups(b, scale, shift);
        for (int pair = 0; pair < 4; ++pair) nibbles(codes + 64 * pair, b + 48 + 32 * pair, 64);
        for (int g = 0; g < 8; ++g)
            for (int i = 0; i < kGroup; ++i)
                codes[kGroup * g + i] = static_cast<uint8_t>(codes[kGroup * g + i] | (b[16 + i] >> g & 1) << 4);
    }
};

struct Q6_K {
    static constexpr int kBytes = 210, kGroups = 8, kBits = 8;
    static constexpr bool kShifted = false;
    static void decode(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *) {
        float values[kGroups * kGroup], steps[16];
        const float d = half_to_float(half_at(b + 208));
        for (int s = 0; s < 16; ++s) steps[s] = d * static_cast<float>(static_cast<int8_t>(b[192 + s]));
        for (int half = 0; half < 2; ++half) {
            uint8_t q[128];
            nibbles(q, b + 64 * half, 128);
            for (int part = 0; part < 4; ++part)
                for (int i = 0; i < 32; ++i) {
                    int code = q[32 * part + i] | (b[128 + 32 * half + i] >> 2 * part & 3) << 4;
                    int at = 128 * half + 32 * part + i;
                    values[at] = static_cast<float>(code - 32) * steps[at / 16];
                }
        }
        for (int g = 0; g < kGroups; ++g) scale[g] = requantise(values + kGroup * g, codes + kGroup * g);
    }

    // The nearest 8-bit codes: no value is further away than half a step. Returns the scale.
    static uint16_t requantise(const float *values, uint8_t *codes) {
        float peak = 0.0f;
        for (int i = 0; i < kGroup; ++i) {
            float magnitude = values[i] < 0.0f ? -values[i] : values[i];
            if (!(magnitude <= peak)) peak = magnitude;  // takes a NaN, which the scale will then be
        }
        uint16_t scale = float_to_half(peak / 127.0f);
        // Where float16 is coarse, rounding down can leave the largest value out of reach; its next number cannot.
        if (peak > 127.5f * half_to_float(scale)) ++scale;
        const float step = half_to_float(scale) != 0.0f ? half_to_float(scale) : 1.0f;
        constexpr float kRound = 12582912.0f;  // 1.5 2^23: adding it leaves no place for what is behind the point
        for (int i = 0; i < kGroup; ++i) {
            float code = (values[i] / step + kRound) - kRound + 128.0f;
            code = code > 255.0f ? 255.0f : code;
            codes[i] = static_cast<uint8_t>(code > 0.0f ? code : 0.0f);
        }
        return scale;
    }
};

// A group of 32 rows into 8 quads: row i's codes are at codes + i * stride.
template <int kBits>
void write_quads(uint8_t *to, const uint8_t *codes, int stride) {
    for (int quad = 0; quad < kBlock / 4; ++quad) {
        uint32_t words[kPanel];
        for (int i = 0; i < kPanel; ++i) std::memcpy(words + i, codes + i * stride + 4 * quad, 4);
        if (kBits == 4)
            for (int i = 0; i < kPanel / 2; ++i) words[i] |= words[i + kPanel / 2] << 4;
        constexpr int kSize = kPanel * 4 * kBits / 8;
        std::memcpy(to + quad * kSize, words, kSize);
    }
}

struct Matrix {
    int fd;
    int64_t offset, outputs, inputs, head_dim;
    uint8_t *panels;
    uint16_t *scales, *shifts;

    int64_t source_row(int64_t row) const {
        if (!head_dim) return row;
        const int64_t head = row / head_dim, at = row % head_dim, half = head_dim / 2;
        return head * head_dim + 2 * (at % half) + at / half;
    }
};

int read_all(int fd, uint8_t *to, int64_t size, int64_t offset) {
    while (size > 0) {
        ssize_t count = pread(fd, to, static_cast<size_t>(size), static_cast<off_t>(offset));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return errno;
        if (count == 0) return kGGUFEnded;
        to += count, offset += count, size -= count;
    }
    return kGGUFPacked;
}

template <class Type>
int pack_panel(const Matrix &matrix, int64_t panel) {
    static thread_local std::vector<uint8_t> rows;
    const int64_t blocks = matrix.inputs / (kGroup * Type::kGroups), row_bytes = blocks * Type::kBytes;
    const int64_t groups = matrix.inputs / kGroup;
    const int64_t begin = panel * kPanel, count = std::min<int64_t>(kPanel, matrix.outputs - begin);
    int64_t source[kPanel], first = matrix.outputs, last = 0;
    for (int64_t i = 0; i < count; ++i) {
        source[i] = matrix.source_row(begin + i);
        first = std::min(first, source[i]), last = std::max(last, source[i]);
    }
    rows.resize(static_cast<size_t>((last + 1 - first) * row_bytes));
    if (int failed = read_all(matrix.fd, rows.data(), (last + 1 - first) * row_bytes, matrix.offset + first * row_bytes))
        return failed;
    constexpr int kWeights = kGroup * Type::kGroups;
    constexpr int kPanelBytes = kPanel * kBlock * Type::kBits / 8;
    // Rows behind the matrix: the code of zero, scales and shifts of 0.
    alignas(64) uint8_t codes[kPanel * kWeights];
    std::memset(codes, Type::kShifted ? 0 : 1 << (Type::kBits - 1), sizeof codes);
    uint16_t bad = 0;
    for (int64_t b = 0; b < blocks; ++b) {
        const int64_t at = panel * groups + b * Type::kGroups;
        uint16_t scale[kPanel][Type::kGroups] = {}, shift[kPanel][Type::kGroups] = {};
        for (int64_t i = 0; i < count; ++i)
            Type::decode(rows.data() + (source[i] - first) * row_bytes + b * Type::kBytes, codes + i * kWeights, scale[i],
                         shift[i]);
        for (int g = 0; g < Type::kGroups; ++g) {
            write_quads<Type::kBits>(matrix.panels + (at + g) * kPanelBytes, codes + g * kGroup, kWeights);
            for (int i = 0; i < kPanel; ++i) {
                constexpr uint16_t kExponent = 0x7c00;
                bad |= (scale[i][g] & kExponent) == kExponent || (shift[i][g] & kExponent) == kExponent;
                matrix.scales[(at + g) * kPanel + i] = scale[i][g];
                if (Type::kShifted) matrix.shifts[(at + g) * kPanel + i] = shift[i][g];
            }
        }
    }
    return bad ? kGGUFNotFinite : kGGUFPacked;
}

template <class Type>
int pack_all(const Matrix &matrix) {
    std::atomic<int> failed{kGGUFPacked};
    parallel_for((matrix.outputs + kPanel - 1) / kPanel, matrix.inputs * kPanel / 4, [&](int64_t begin, int64_t end) {
        for (int64_t panel = begin; panel < end && !failed; ++panel)
            if (int how = pack_panel<Type>(matrix, panel)) failed = how;
    });
    return failed;
}

}  // namespace

int pack_gguf(const std::string &kind, int fd, int64_t offset, int64_t outputs, int64_t inputs, int64_t head_dim,
              uintptr_t panels, uintptr_t scales, uintptr_t shifts) {
    const Matrix matrix{fd, offset, outputs, inputs, head_dim, reinterpret_cast<uint8_t *>(panels),
                        reinterpret_cast<uint16_t *>(scales), reinterpret_cast<uint16_t *>(shifts)};
    if (kind == "Q4_0") return pack_all<Q4_0>(matrix);
    if (kind == "Q4_1") return pack_all<Q4_1>(matrix);
    if (kind == "Q5_0") return pack_all<Q5_0>(matrix);
    if (kind == "Q5_1") return pack_all<Q5_1>(matrix);
    if (kind == "Q8_0") return pack_all<Q8_0>(matrix);
    if (kind == "Q4_K") return pack_all<Q4_K>(matrix);
    if (kind == "Q5_K") return pack_all<Q5_K>(matrix);
    if (kind == "Q6_K") return pack_all<Q6_K>(matrix);
    return kGGUFUnknown;
}

}  // namespace ostro
