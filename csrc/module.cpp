#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>

#include "common.h"
#include "decoder_step.h"
#include "gguf_pack.h"
#include "kernels.h"
#include "packed_linear.h"
#include "parallel.h"

namespace nb = nanobind;

namespace {

std::string instruction_set() {
#if OSTRO_HAS_CLONES
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4")) return "avx512";
    if (__builtin_cpu_supports("x86-64-v3")) return "avx2";
#endif
    return "portable";
}

}  // namespace

// Takes addresses, not tensors: conversion would cost more than a small kernel. Python checks what it passes.
NB_MODULE(_native, m) {
    using release = nb::call_guard<nb::gil_scoped_release>;
    nb::enum_<ostro::DType>(m, "DType").value("f32", ostro::DType::f32).value("bf16", ostro::DType::bf16);
    m.def("rms_norm", &ostro::rms_norm, release());
    m.def("silu_mul", &ostro::silu_mul, release());
    m.def("pick_tokens", &ostro::pick_tokens, release());
    m.def("rope_write", &ostro::rope_write, release());
    m.def("paged_attention", &ostro::paged_attention, release());
    m.def("chunk_attention", &ostro::chunk_attention, release());
    nb::class_<ostro::PackedLinear>(m, "PackedLinear")
        .def(nb::init<int64_t>())
        .def("add", &ostro::PackedLinear::add)
        .def("matmul", &ostro::PackedLinear::matmul, release())
        .def("gated", &ostro::PackedLinear::gated, release())
        .def("lookup", &ostro::PackedLinear::lookup, release());
    m.def("read_bandwidth", &ostro::read_bandwidth, release());
    m.def("multiply_rate", &ostro::multiply_rate, release());
    m.def("float_rate", &ostro::float_rate, release());
    m.def("pack_codes", &ostro::pack_codes, release());
    m.def("pack_gguf", &ostro::pack_gguf, release());
    m.attr("GGUF_NOT_FINITE") = static_cast<int>(ostro::kGGUFNotFinite);
    m.attr("GGUF_ENDED") = static_cast<int>(ostro::kGGUFEnded);
    m.def("advise_large_pages", &ostro::advise_large_pages);
    m.def("all_finite_half", &ostro::all_finite_half, release());
    nb::class_<ostro::DecoderStep>(m, "DecoderStep")
        .def(nb::init<int64_t, int64_t, int64_t, int, float, uintptr_t>())
        .def("add_layer", &ostro::DecoderStep::add_layer)
        .def("run", &ostro::DecoderStep::run, release());
    m.def("packed_kernels", [] { return std::string(ostro::packed_kernels().name); });
    m.def("packed_choices", &ostro::packed_choices);
    m.def("choose_packed", &ostro::choose_packed);
    m.def("instruction_set", &instruction_set);
    m.def("pool_name", [] { return std::string(ostro::pool_name()); });
    m.def("pool_threads", &ostro::pool_threads);
}
