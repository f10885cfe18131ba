#include "packed_linear.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "common.h"
#include "half.h"
#include "parallel.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace ostro {
#if defined(__x86_64__) && defined(OSTRO_X86_KERNELS)
// What compilers have no name for, or names that differ by version, is asked of the processor itself.
static bool has_avx_vnni() {
    unsigned eax = 7, ebx = 0, ecx = 1, edx = 0;
    __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    return eax >> 4 & 1;
}

static bool has_f16c() {
    unsigned eax = 1, ebx = 0, ecx = 0, edx = 0;
    __asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    return ecx >> 29 & 1;
}
#endif

namespace {

std::vector<const PackedKernels *> usable() {
    std::vector<const PackedKernels *> found;
#if defined(__x86_64__) && defined(OSTRO_X86_KERNELS)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni"))
        found.push_back(&kPackedAvx512Vnni);
    if (avx2 && has_avx_vnni()) found.push_back(&kPackedAvxVnni);
    if (avx2) found.push_back(&kPackedAvx2);
#endif
#if defined(__aarch64__) && defined(OSTRO_ARM_KERNELS)
#if defined(__linux__)
    if (getauxval(AT_HWCAP) & (1u << 20)) found.push_back(&kPackedNeonDot);  // HWCAP_ASIMDDP
#else
    found.push_back(&kPackedNeonDot);  // Every Apple machine with this architecture has it.
#endif
#endif
    found.push_back(&kPackedPortable);
    return found;
}

const PackedKernels *named(const std::string &name) {
    for (const PackedKernels *kernels : usable())
        if (name == kernels->name) return kernels;
    return nullptr;
}

std::atomic<const PackedKernels *> &chosen() {
    static std::atomic<const PackedKernels *> kernels{usable().front()};
    return kernels;
}

// Quantised activations of a batch. Rows are padded apart: a stride of a power of two would put the rows of a tile
// into the same sets of the first-level cache.
struct Workspace {
    std::vector<int8_t> codes;
    std::vector<float> scale, sum;
    std::vector<int32_t> total, start;
};

Workspace &workspace() {
    static thread_local Workspace space;
    return space;
}

// A row as floats, in the order that the weight's columns are in, padded to whole blocks.
template <class T>
void widen(const T *x, const int32_t *order, int64_t inputs, std::vector<float> &out) {
    for (int64_t i = 0; i < inputs; ++i) out[static_cast<size_t>(i)] = load(x + (order ? order[i] : i));
}

OSTRO_CLONES void silu_times(float *gate, const float *up) {
#pragma omp simd
    for (int o = 0; o < kPanel; ++o) gate[o] = gate[o] / (1.0f + exp_fast(-gate[o])) * up[o];
}

struct Rows {
    int64_t code_stride, block_stride;
};

void quantise(Workspace &space, Rows layout, DType dtype, uintptr_t x, int64_t x_stride, int64_t rows,
              int64_t inputs, int64_t blocks, const int32_t *order) {
    space.codes.resize(static_cast<size_t>(rows * layout.code_stride));
    for (std::vector<float> *values : {&space.scale, &space.sum})
        values->resize(static_cast<size_t>(rows * layout.block_stride));
    space.total.resize(static_cast<size_t>(rows * layout.block_stride));
    const QuantiseFn to_codes = packed_kernels().quantise;
    const bool direct = dtype == DType::f32 && !order && inputs == blocks * kBlock;
    parallel_for(rows, inputs / 8 + 1, [&](int64_t begin, int64_t end) {
        std::vector<float> wide(direct ? 0 : static_cast<size_t>(blocks * kBlock), 0.0f);
        for (int64_t row = begin; row < end; ++row) {
            const float *from = reinterpret_cast<const float *>(x) + row * x_stride;
            if (!direct) {
                if (dtype == DType::f32)
                    widen(from, order, inputs, wide);
                else
                    widen(reinterpret_cast<const bf16 *>(x) + row * x_stride, order, inputs, wide);
                from = wide.data();
            }
            int64_t at = row * layout.block_stride;
            to_codes(from, blocks, space.codes.data() + row * layout.code_stride, space.scale.data() + at,
                     space.sum.data() + at, space.total.data() + at);
        }
    });
}

int64_t panel_bytes(const Segment &segment, int64_t blocks) { return blocks * kPanel * kBlock * segment.bits / 8; }

int64_t groups_of(const Segment &segment, int64_t inputs) {
    return segment.group_size ? inputs / segment.group_size : 1;
}

Panel panel_of(const Segment &segment, int64_t index, int64_t inputs, int64_t blocks) {
    int64_t at = index * groups_of(segment, inputs) * kPanel;
    return {segment.codes + index * panel_bytes(segment, blocks), segment.scales + at,
            segment.shifts ? segment.shifts + at : nullptr, nullptr, 0};
}

Depth depth_of(const Segment &segment, int64_t blocks) {
    return {blocks, segment.group_size ? segment.group_size / kBlock : blocks};
}

// What an integer accumulator must begin with, as a multiple of the sum of the activations' codes.
int32_t offset_of(const Segment &segment, const PackedKernels &kernels) {
    int32_t middle = segment.shifts ? 0 : 1 << (segment.bits - 1);
    return (segment.bits == 8 && kernels.signed8 ? 128 : 0) - middle;
}

template <class T>
void write(T *out, const float *values, int64_t count) {
    for (int64_t o = 0; o < count; ++o) store(out + o, values[o]);
}

void write_rows(DType dtype, void *out, int64_t stride, int64_t row, int64_t column, const float *tile, int64_t rows,
                int64_t count) {
    for (int64_t r = 0; r < rows; ++r) {
        int64_t at = (row + r) * stride + column;
        dtype == DType::f32 ? write(static_cast<float *>(out) + at, tile + r * kPanel, count)
                            : write(static_cast<bf16 *>(out) + at, tile + r * kPanel, count);
    }
}

constexpr int kMostRows = 8;
// With more rows than these tiles have, multiplying takes so long that fetching does not show.
constexpr int64_t kTilesThatFetch = 24;
// Rows that stay in the second-level cache while panels pass by.
constexpr int64_t kRowBytes = 512 * 1024;

}  // namespace

const PackedKernels &packed_kernels() { return *chosen().load(std::memory_order_relaxed); }

std::vector<std::string> packed_choices() {
    std::vector<std::string> names;
    for (const PackedKernels *kernels : usable()) names.emplace_back(kernels->name);
    return names;
}

bool choose_packed(const std::string &name) {
    const PackedKernels *kernels = named(name);
    if (kernels) chosen().store(kernels, std::memory_order_relaxed);
    return kernels != nullptr;
}

void PackedLinear::add(uintptr_t codes, uintptr_t scales, uintptr_t shifts, uintptr_t order, int64_t outputs, int bits,
                       int64_t group_size) {
    segments_.push_back({reinterpret_cast<const uint8_t *>(codes), reinterpret_cast<const uint16_t *>(scales),
                         reinterpret_cast<const uint16_t *>(shifts), reinterpret_cast<const int32_t *>(order), outputs,
                         group_size, bits});
    outputs_ += outputs;
}

void PackedLinear::matmul(DType dtype, uintptr_t out, uintptr_t x, int64_t x_stride, int64_t rows) const {
    run(dtype, reinterpret_cast<void *>(out), x, x_stride, rows, false);
}

void PackedLinear::gated(DType dtype, uintptr_t out, uintptr_t x, int64_t x_stride, int64_t rows) const {
    run(dtype, reinterpret_cast<void *>(out), x, x_stride, rows, true);
}

void PackedLinear::run(DType dtype, void *out, uintptr_t x, int64_t x_stride, int64_t rows, bool gated) const {
    const PackedKernels &kernels = packed_kernels();
    const int64_t inputs = inputs_, blocks = (inputs + kBlock - 1) / kBlock;
    const Rows layout{blocks * kBlock + 64, blocks + 8};
    const int64_t width = gated ? outputs_ / 2 : outputs_;
    Workspace &space = workspace();
    const int64_t block_rows = std::max<int64_t>(kMostRows, kRowBytes / layout.code_stride);
    int64_t column = 0;
    // Segments that want the same activations (order and offset) go together.
    for (size_t first = 0; first < segments_.size();) {
        const Segment &head = segments_[first];
        const int32_t offset = offset_of(head, kernels);
        size_t last = first + 1;
        while (last < segments_.size() && segments_[last].order == head.order &&
               offset_of(segments_[last], kernels) == offset)
            ++last;
        if (gated) last = segments_.size();
        if (first == 0 || segments_[first - 1].order != head.order)
            quantise(space, layout, dtype, x, x_stride, rows, inputs, blocks, head.order);
        space.start.resize(space.total.size());
        std::transform(space.total.begin(), space.total.end(), space.start.begin(),
                       [offset](int32_t total) { return offset * total; });
        // Where each segment's panels begin in the count of all.
        std::vector<int64_t> begins{0}, columns;
        for (size_t s = first; s < last; ++s) {
            if (gated && s > first) break;
            begins.push_back(begins.back() + (segments_[s].outputs + kPanel - 1) / kPanel);
            columns.push_back(column);
            column += segments_[s].outputs;
        }
        const int64_t panels = begins.back(), matrices = gated ? 2 : 1;
        const int64_t cost = rows * inputs * kPanel * matrices / 64 + 1;
        parallel_runs(panels, cost, [&](int64_t begin, int64_t end) {
            alignas(64) float tile[kMostRows * kPanel], other[kMostRows * kPanel];
            for (int64_t row0 = 0; row0 < rows; row0 += block_rows) {
                const int64_t row1 = std::min(rows, row0 + block_rows);
                size_t s = 0;
                for (int64_t panel = begin; panel < end; ++panel) {
                    while (panel >= begins[s + 1]) ++s;
                    const Segment &segment = segments_[first + s];
                    const int64_t index = panel - begins[s];
                    Panel weights = panel_of(segment, index, inputs, blocks);
                    const int64_t count = std::min<int64_t>(kPanel, segment.outputs - index * kPanel);
                    // Tiles of as equal a height as can be.
                    int64_t tiles = (row1 - row0 + kernels.max_rows - 1) / kernels.max_rows;
                    // The next panel is fetched in as many parts; what was multiplied before is in the cache already.
                    const int64_t share = (panel_bytes(segment, 1) / tiles + 63) / 64 * 64;
                    const bool fetch = panel + 1 < end && tiles <= kTilesThatFetch;
                    const uint8_t *following = weights.codes + panel_bytes(segment, blocks);
                    for (int64_t t = 0; t < tiles; ++t) {
                        int64_t row = row0 + (row1 - row0) * t / tiles, next = row0 + (row1 - row0) * (t + 1) / tiles;
                        int high = static_cast<int>(next - row);
                        if (fetch) weights.ahead = following + t * share * blocks, weights.ahead_step = share;
                        Activations part{space.codes.data() + row * layout.code_stride,
                                         space.scale.data() + row * layout.block_stride,
                                         space.sum.data() + row * layout.block_stride,
                                         space.start.data() + row * layout.block_stride,
                                         layout.code_stride,
                                         layout.block_stride};
                        (segment.bits == 4 ? kernels.tile4 : kernels.tile8)(weights, depth_of(segment, blocks), part,
                                                                            high, tile);
                        if (gated) {
                            const Segment &second = segments_[1];
                            Panel beside = panel_of(second, index, inputs, blocks);
                            if (fetch) {
                                beside.ahead = beside.codes + panel_bytes(second, blocks) + t * share * blocks;
                                beside.ahead_step = share;
                            }
                            (second.bits == 4 ? kernels.tile4 : kernels.tile8)(beside, depth_of(second, blocks), part,
                                                                              high, other);
                            for (int r = 0; r < high; ++r) silu_times(tile + r * kPanel, other + r * kPanel);
                        }
                        write_rows(dtype, out, width, row, columns[s] + index * kPanel, tile, high, count);
                    }
                }
            }
        });
        first = last;
    }
}

void PackedLinear::lookup(DType dtype, uintptr_t out, uintptr_t ids, int64_t rows) const {
    const Segment &segment = segments_.front();
    const int64_t blocks = (inputs_ + kBlock - 1) / kBlock;
    const int64_t *id = reinterpret_cast<const int64_t *>(ids);
    parallel_for(rows, inputs_, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            int64_t index = id[row] / kPanel, o = id[row] % kPanel;
            Panel panel = panel_of(segment, index, inputs_, blocks);
            int64_t size = segment.group_size ? segment.group_size : inputs_;
            for (int64_t i = 0; i < inputs_; ++i) {
                int64_t quad = i / 4, k = i % 4, group = (i / size) * kPanel + o;
                int32_t code = segment.bits == 8 ? panel.codes[quad * 128 + 4 * o + k]
                               : o < 16          ? panel.codes[quad * 64 + 4 * o + k] & 15
                                                 : panel.codes[quad * 64 + 4 * (o - 16) + k] >> 4;
                float scale = half_to_float(panel.scales[group]);
                float value = panel.shifts
                                  ? scale * static_cast<float>(code) + half_to_float(panel.shifts[group])
                                  : scale * static_cast<float>(code - (1 << (segment.bits - 1)));
                int64_t at = row * inputs_ + (segment.order ? segment.order[i] : i);
                dtype == DType::f32 ? store(reinterpret_cast<float *>(out) + at, value)
                                    : store(reinterpret_cast<bf16 *>(out) + at, value);
            }
        }
    });
}

}  // namespace ostro
