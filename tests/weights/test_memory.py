"""Loading takes the model's own size and little more, measured on a process that does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

MIB = 1 << 20
# One tensor in flight, the allocator's slack and the pages of code that loading touches for the first time.
ALLOWANCE = 32 * MIB

CONFIG = {
    "model_type": "mistral",
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "tie_word_embeddings": False,
}

PROBE = """
import json, sys
from pathlib import Path
import torch
from ostro.weights.loader import load_model

def status(key):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024

load_model(Path(sys.argv[1]))                   # a tiny one, so that what is imported on first use is there
Path("/proc/self/clear_refs").write_text("5")   # the peak starts from here
rss, size = status("VmRSS"), status("VmSize")
model = load_model(Path(sys.argv[2]))
weights = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps({
    "weights": weights,
    "peak": status("VmHWM") - rss,
    "resident": status("VmRSS") - rss,
    "address_space": status("VmPeak") - size,
    "finite": bool(torch.isfinite(model.embed.weight[::97].float()).all()),
}))
"""


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    dim, width, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    out: dict[str, tuple[int, ...]] = {
        "tok_embeddings": (config["vocab_size"], dim),
        "output": (config["vocab_size"], dim),
        "norm": (dim,),
    }
    for layer in range(config["num_hidden_layers"]):
        each = {
            "attention.wq": (q, dim),
            "attention.wk": (kv, dim),
            "attention.wv": (kv, dim),
            "attention.wo": (dim, q),
            "feed_forward.w1": (width, dim),
            "feed_forward.w2": (dim, width),
            "feed_forward.w3": (width, dim),
            "attention_norm": (dim,),
            "ffn_norm": (dim,),
        }
        out |= {f"layers.{layer}.{name}": shape for name, shape in each.items()}
    return out


HF_NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "output": "lm_head",
    "norm": "model.norm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def hf_name(name: str) -> str:
    if not name.startswith("layers."):
        return HF_NAMES[name]
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{HF_NAMES[rest]}"


def write(folder: Path, config: dict[str, Any], layout: str, dtype: torch.dtype) -> None:
    """A checkpoint of random weights in `dtype`; FP8 with a scale each."""
    folder.mkdir()
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02
    tensors: dict[str, torch.Tensor] = {}
    for native, shape in shapes(config).items():
        name = native if layout == "native" else hf_name(native)
        count = int(torch.tensor(shape).prod())
        value = noise.repeat(-(-count // len(noise)))[:count].view(shape)
        quantised = dtype == torch.float8_e4m3fn and "layers" in native and len(shape) == 2
        tensors[name + ".weight"] = value.to(dtype if quantised or dtype != torch.float8_e4m3fn else torch.bfloat16)
        if quantised:
            scale = "qscale_weight" if layout == "native" else "weight_scale_inv"
            tensors[f"{name}.{scale}"] = torch.tensor(0.5)
    if layout == "hf":
        (folder / "config.json").write_text(json.dumps(config))
        save_file(tensors, folder / "model.safetensors")
        return
    params = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "head_dim": config["head_dim"],
        "hidden_dim": config["intermediate_size"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "norm_eps": config["rms_norm_eps"],
        "vocab_size": config["vocab_size"],
    }
    (folder / "params.json").write_text(json.dumps(params))
    save_file(tensors, folder / "consolidated.safetensors")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("layout", "dtype"),
    [("hf", torch.bfloat16), ("native", torch.bfloat16), ("native", torch.float8_e4m3fn)],
    ids=["hf", "native", "fp8"],
)
def test_peak_memory_of_loading(tmp_path: Path, layout: str, dtype: torch.dtype) -> None:
    small = {**CONFIG, "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    write(tmp_path / "small", small, layout, dtype)
    write(tmp_path / "large", CONFIG, layout, dtype)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path / "small"), str(tmp_path / "large")],
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout)
    weights = seen["weights"]
    assert weights > 250 * MIB
    assert seen["finite"]
    assert seen["resident"] > 0.9 * weights, "the weights are in memory, so that the measurement means something"
    assert seen["peak"] <= 1.05 * weights + ALLOWANCE, seen
    # Nor is more asked for than is used: on a device that is memory too.
    assert seen["address_space"] <= 1.1 * weights + 3 * ALLOWANCE, seen
