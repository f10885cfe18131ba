#include <atomic>
#include <cstring>

#include "packed.h"
#include "packed_linear.h"
#include "parallel.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ostro {
namespace {

// The four codes of a row from column 4 q on, as one number; what lies outside of the matrix is `fill`.
inline uint32_t quad_of(const uint8_t *codes, int64_t outputs, int64_t inputs, int64_t row, int64_t column,
                        uint8_t fill) {
    uint32_t word;
    if (row < outputs && column + 4 <= inputs) {
        std::memcpy(&word, codes + row * inputs + column, 4);
        return word;
    }
    uint8_t bytes[4];
    for (int64_t k = 0; k < 4; ++k)
        bytes[k] = row < outputs && column + k < inputs ? codes[row * inputs + column + k] : fill;
    std::memcpy(&word, bytes, 4);
    return word;
}

}  // namespace

void pack_codes(uintptr_t panels, uintptr_t codes, int64_t outputs, int64_t inputs, int bits, int fill) {
    const uint8_t *from = reinterpret_cast<const uint8_t *>(codes);
    const int64_t count = (outputs + kPanel - 1) / kPanel, blocks = (inputs + kBlock - 1) / kBlock;
    const uint8_t empty = static_cast<uint8_t>(fill);
    parallel_for(count, inputs * kPanel / 4, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) {
            uint8_t *to = reinterpret_cast<uint8_t *>(panels) + p * blocks * kPanel * kBlock * bits / 8;
            for (int64_t quad = 0; quad < blocks * kBlock / 4; ++quad) {
                uint32_t words[kPanel];
                for (int64_t i = 0; i < kPanel; ++i)
                    words[i] = quad_of(from, outputs, inputs, p * kPanel + i, 4 * quad, empty);
                if (bits == 4)
                    for (int i = 0; i < kPanel / 2; ++i) words[i] |= words[i + kPanel / 2] << 4;
                size_t size = static_cast<size_t>(kPanel * 4 * bits / 8);
                std::memcpy(to, words, size);
                to += size;
            }
        }
    });
}

void advise_large_pages(uintptr_t address, int64_t size) {
#if defined(__linux__)
    constexpr uintptr_t kLarge = uintptr_t{1} << 21;
    const uintptr_t first = (address + kLarge - 1) / kLarge * kLarge, last = (address + static_cast<uintptr_t>(size)) / kLarge * kLarge;
    // It is advice: a kernel that does not take it leaves pages as they are.
    if (first < last) (void)madvise(reinterpret_cast<void *>(first), last - first, MADV_HUGEPAGE);
#else
    (void)address, (void)size;
#endif
}

bool all_finite_half(uintptr_t values, int64_t count) {
    constexpr int64_t kPiece = 1 << 14;
    constexpr uint16_t kExponent = 0x7c00;
    const uint16_t *from = reinterpret_cast<const uint16_t *>(values);
    std::atomic<bool> finite{true};
    parallel_for((count + kPiece - 1) / kPiece, kPiece / 16, [&](int64_t begin, int64_t end) {
        const int64_t last = end * kPiece < count ? end * kPiece : count;
        for (int64_t start = begin * kPiece; start < last && finite; start += kPiece) {
            const int64_t stop = start + kPiece < last ? start + kPiece : last;
            unsigned bad = 0;
            for (int64_t i = start; i < stop; ++i) bad |= (from[i] & kExponent) == kExponent;
            if (bad) finite = false;
        }
    });
    return finite;
}

}  // namespace ostro
