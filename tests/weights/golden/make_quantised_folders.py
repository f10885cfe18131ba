"""Small matrices as the makers' own packages store them, with the values that these packages read back.

README.md says how to run this. Each file holds the tensors of the layer `layer`, `expected` [O, I] float32, and the
quantization_config as metadata.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

OUTPUTS, INPUTS = 64, 96
HERE = Path(__file__).parent
Tensors = dict[str, torch.Tensor]


def write(name: str, tensors: Tensors, expected: torch.Tensor, config: dict[str, Any]) -> None:
    stored = {f"layer.{part}": value.contiguous() for part, value in tensors.items()}
    save_file(
        {**stored, "expected": expected.float().contiguous()},
        HERE / f"{name}.safetensors",
        metadata={"quantization_config": json.dumps(config)},
    )


def weight(seed: int) -> torch.Tensor:
    return torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(seed)) * 0.05


def ranges(weight_OI: torch.Tensor, bits: int, size: int, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points [O, G] of round-to-nearest; both exact in float16."""
    groups = weight_OI.view(OUTPUTS, -1, size)
    if symmetric:
        scales = (groups.abs().amax(-1) / (2 ** (bits - 1) - 1)).half().float()
        return scales, torch.full_like(scales, 2 ** (bits - 1))
    low, high = groups.amin(-1), groups.amax(-1)
    scales = ((high - low) / (2**bits - 1)).half().float()
    return scales, (-low / scales).round().clamp(1, 2**bits - 1)


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gptq(package: Path, name: str, bits: int, size: int, symmetric: bool, act_order: bool, seed: int) -> None:
    """package: the unpacked wheel of auto-gptq; only its plain PyTorch layer is loaded."""
    layer_type = load(package / "auto_gptq/nn_modules/qlinear/qlinear_cuda.py").QuantLinear
    width = INPUTS if size == -1 else size
    groups_I = torch.arange(INPUTS) // width
    order_I = torch.arange(INPUTS)
    if act_order:
        order_I = torch.randperm(INPUTS, generator=torch.Generator().manual_seed(seed))
        groups_I = groups_I[order_I.argsort()]
    values = weight(seed)
    scales, zeros = ranges(values[:, order_I], bits, width, symmetric)
    steps = (values / scales[:, groups_I] + zeros[:, groups_I]).round().clamp(0, 2**bits - 1)
    linear = torch.nn.Linear(INPUTS, OUTPUTS)  # With a bias of zeros, as AutoGPTQ stores one.
    linear.weight.data = (steps - zeros[:, groups_I]) * scales[:, groups_I]
    linear.bias.data.zero_()
    layer = layer_type(bits, size, INPUTS, OUTPUTS, bias=True, weight_dtype=torch.float32)
    layer.pack(linear, scales.clone(), zeros.clone(), groups_I.to(torch.int32))
    expected = layer(torch.eye(INPUTS)).T
    tensors = {part: getattr(layer, part) for part in ("qweight", "qzeros", "g_idx")}
    tensors |= {"scales": layer.scales.half(), "bias": layer.bias.half()}
    config = {"quant_method": "gptq", "bits": bits, "group_size": size, "desc_act": act_order, "sym": symmetric}
    write(name, tensors, expected.detach(), config)


def awq(package: Path, name: str, size: int, seed: int) -> None:
    """package: the unpacked source of autoawq."""
    # A bare module instead of the package's own, which imports every model there is.
    sys.modules["awq"] = types.ModuleType("awq")
    sys.modules["awq"].__path__ = [str(package / "awq")]
    packing, gemm = load(package / "awq/utils/packing_utils.py"), load(package / "awq/modules/linear/gemm.py")
    values = weight(seed)
    scales, zeros = ranges(values, 4, size, symmetric=False)
    wide_scales, wide_zeros = scales.repeat_interleave(size, 1), zeros.repeat_interleave(size, 1)
    steps = (values / wide_scales + wide_zeros).round().clamp(0, 15)
    linear = torch.nn.Linear(INPUTS, OUTPUTS, bias=False)
    linear.weight.data = (steps - wide_zeros) * wide_scales
    layer = gemm.WQLinear_GEMM.from_linear(linear, 4, size, scales=scales.T, zeros=zeros.T)
    expected = packing.dequantize_gemm(layer.qweight, layer.qzeros, layer.scales.float(), 4, size).T
    tensors = {part: getattr(layer, part) for part in ("qweight", "qzeros", "scales")}
    config = {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm", "zero_point": True}
    write(name, tensors, expected, config)


def compressed(
    name: str, form: str, bits: int, size: int | None, symmetric: bool, act_order: bool, seed: int, **more: Any
) -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(
        num_bits=bits,
        symmetric=symmetric,
        strategy="channel" if size is None else "group",
        group_size=size,
        actorder="group" if act_order else None,
    )
    values, width = weight(seed), size or INPUTS
    groups_I, order_I = torch.arange(INPUTS) // width, torch.arange(INPUTS)
    if act_order:
        order_I = torch.randperm(INPUTS, generator=torch.Generator().manual_seed(seed))
        groups_I = groups_I[order_I.argsort()]
    scales, zeros = ranges(values[:, order_I], bits, width, symmetric)
    state = {"weight": values, "weight_scale": scales.bfloat16().float()}
    if not symmetric:
        state["weight_zero_point"] = (zeros - 2 ** (bits - 1)).to(torch.int8)
    if act_order:
        state["weight_g_idx"] = groups_I.to(torch.int32)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=form, **more)
    compressor = BaseCompressor.get_value_from_registry(form)
    stored = {part: value for part, value in compressor.compress(state, scheme).items() if value is not None}
    expected = compressor.decompress(dict(stored), scheme)["weight"]
    stored["weight_scale"] = stored["weight_scale"].bfloat16()
    config = {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme.model_dump(mode="json")},
        "ignore": ["lm_head"],
    }
    write(name, stored, expected, config)


if __name__ == "__main__":
    auto_gptq, auto_awq = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_grad_enabled(False)
    gptq(auto_gptq, "gptq_int4", 4, 32, symmetric=True, act_order=False, seed=1)
    gptq(auto_gptq, "gptq_int4_zeros_act_order", 4, 32, symmetric=False, act_order=True, seed=2)
    gptq(auto_gptq, "gptq_int8_row", 8, -1, symmetric=False, act_order=False, seed=3)
    awq(auto_awq, "awq_int4", 32, seed=4)
    compressed("compressed_int4", "pack-quantized", 4, 32, symmetric=True, act_order=False, seed=5)
    compressed("compressed_int4_zeros_act_order", "pack-quantized", 4, 32, symmetric=False, act_order=True, seed=6)
    compressed("compressed_int8_row_packed", "pack-quantized", 8, None, symmetric=True, act_order=False, seed=7)
    inputs = {"num_bits": 8, "strategy": "token", "dynamic": True}
    compressed(
        "compressed_int8", "int-quantized", 8, None, symmetric=True, act_order=False, seed=8, input_activations=inputs
    )
