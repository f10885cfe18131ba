"""Loading: every tensor accounted for, every layout the same model, and errors that name what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tampering import IDS, edit_config, edit_tensors, logits

import tiny_checkpoints
import tiny_gguf
from ostro.core.errors import CheckpointError, ConfigError, ModelNotFoundError
from ostro.weights import finite
from ostro.weights.folder import open_folder
from ostro.weights.loader import deinterleave, load_model
from tiny_checkpoints import Tiny

QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny_checkpoints.make("mistral-v0.3", tmp_path_factory.mktemp("made") / "model")


@pytest.fixture
def folder(made: Tiny, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made.folder, tmp_path / "model"))


@pytest.fixture
def native(made: Tiny, tmp_path: Path) -> Path:
    tiny_checkpoints.to_native(made, tmp_path / "native", {"rope_theta": 1e6})
    return tmp_path / "native"


def test_hf_and_native_folders_are_the_same_model(made: Tiny, native: Path) -> None:
    ours = logits(load_model(made.folder))
    assert torch.equal(logits(load_model(native)), ours)
    torch.testing.assert_close(ours, made.reference_logits(IDS.tolist()), atol=1e-4, rtol=0)


def test_a_sharded_checkpoint_is_the_same_model(made: Tiny, tmp_path: Path) -> None:
    sharded = tiny_checkpoints.make("mistral-v0.3", tmp_path / "sharded", shard_size="50KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    assert torch.equal(logits(load_model(sharded.folder)), logits(load_model(made.folder)))


def test_where_both_layouts_are_there_one_is_loaded(folder: Path, native: Path) -> None:
    for file in native.iterdir():
        shutil.copy(file, folder)
    opened = open_folder(folder)
    assert opened.layout == "hf"
    assert [file.name for file in opened.files] == ["model.safetensors"]
    (folder / "model.safetensors").unlink()
    assert open_folder(folder).layout == "native"


def test_deinterleave_is_the_inverse_of_interleaving() -> None:
    weight = torch.arange(24.0)[:, None].expand(24, 3)
    assert torch.equal(deinterleave(tiny_checkpoints.interleave(weight, 6), 6), weight)
    assert deinterleave(torch.arange(4)[:, None], 4)[:, 0].tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["hf", "native"])
def test_stored_types(folder: Path, native: Path, made: Tiny, dtype: torch.dtype, layout: str) -> None:
    path, file = (folder, "model.safetensors") if layout == "hf" else (native, "consolidated.safetensors")
    edit_tensors(path, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}), file)
    model = load_model(path)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    # Widened on loading, a stored value is exactly itself.
    wide = load_model(path, dtype=torch.float32)
    rounded = load_model(made.folder)
    for ours, original in zip(wide.parameters(), rounded.parameters(), strict=True):
        assert torch.equal(ours, original.to(dtype).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_type_asked_for(made: Tiny, dtype: torch.dtype) -> None:
    model = load_model(made.folder, dtype=dtype)
    original = load_file(made.folder / "model.safetensors")
    assert torch.equal(model.head.part(None), original["lm_head.weight"].to(dtype))  # type: ignore[union-attr]  # a Module's attributes have no types
    assert torch.equal(model.get_submodule("layers.1.attention.qkv").part("q"), original[QUERY].to(dtype))  # type: ignore[operator]  # a Module's attributes have no types


def test_a_loaded_model_is_frozen_and_in_eval_mode(made: Tiny) -> None:
    model = load_model(made.folder)
    assert not model.training
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["float32", "fp8", "tied"])
def test_progress_counts_every_byte_once(folder: Path, kind: str) -> None:
    if kind == "fp8":
        edit_tensors(folder, lambda tensors: to_fp8(tensors, "weight_scale", [], ()))
    if kind == "tied":
        edit_config(folder, lambda values: values.update(tie_word_embeddings=True))
        edit_tensors(folder, lambda tensors: tensors.pop("lm_head.weight"))
    seen: list[tuple[int, int, str]] = []
    load_model(folder, progress=lambda done, total, name: seen.append((done, total, name)))
    weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if "scale" not in name}
    assert sorted(name for _, _, name in seen) == sorted(weights)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1][0] == seen[-1][1] == sum(value.nbytes for value in weights.values())


# FP8


SCALE_NAMES = {
    "transformers": ("weight_scale_inv", ["activation_scale"]),
    "compressed-tensors": ("weight_scale", ["input_scale"]),
    "native": ("qscale_weight", ["qscale_act"]),
}


def to_fp8(tensors: dict[str, torch.Tensor], scale_name: str, activation_names: list[str], shape: Any) -> None:
    """Projections to float8 with one scale each, in place; embedding, head and norms stay."""
    for name in [n for n in tensors if "layers." in n and "norm" not in n]:
        scale = tensors[name].abs().max() / 448
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        stem = name.removesuffix("weight")
        tensors[stem + scale_name] = scale.reshape(shape).to(torch.float32)
        for activation in activation_names:
            tensors[stem + activation] = torch.tensor(0.7)


@pytest.mark.parametrize("shape", [(), (1,)], ids=["scalar", "one element"])
@pytest.mark.parametrize("kind", sorted(SCALE_NAMES))
@pytest.mark.parametrize("dtype", [None, torch.float32], ids=["own type", "float32"])
def test_fp8_is_dequantised(folder: Path, native: Path, kind: str, shape: Any, dtype: torch.dtype | None) -> None:
    path, file = (native, "consolidated.safetensors") if kind == "native" else (folder, "model.safetensors")
    stored = edit_tensors(path, lambda tensors: to_fp8(tensors, *SCALE_NAMES[kind], shape), file)
    expected = path.parent / "expected"
    shutil.copytree(path, expected)
    scale_name, _ = SCALE_NAMES[kind]

    def dequantise(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            scale = stored.get(name.removesuffix("weight") + scale_name)
            if not name.endswith(".weight"):
                del tensors[name]
            elif scale is not None:
                tensors[name] = tensors[name].float() * scale

    edit_tensors(expected, dequantise, file)
    model = load_model(path, dtype=dtype)
    assert dtype is None or model.embed.weight.dtype == dtype
    plain = load_model(expected, dtype=model.embed.weight.dtype)
    for ours, reference in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, reference)
    assert torch.isfinite(logits(model).float()).all()


def test_fp8_only_checkpoints_compute_in_bfloat16(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: to_fp8(tensors, "weight_scale", [], ()))
    edit_tensors(
        folder,
        lambda tensors: tensors.update(
            {k: v.to(torch.bfloat16) for k, v in tensors.items() if v.dtype == torch.float32 and "scale" not in k}
        ),
    )
    assert {p.dtype for p in load_model(folder).parameters()} == {torch.bfloat16}


def test_fp8_without_its_scale_is_refused(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: to_fp8(tensors, "weight_scale", [], ()))
    edit_tensors(folder, lambda tensors: tensors.pop(QUERY + "_scale"))
    with pytest.raises(CheckpointError, match=rf"'{QUERY}' is FP8, but its scale is missing") as caught:
        load_model(folder)
    assert "model.safetensors" in str(caught.value)


def test_block_scales_are_refused(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: to_fp8(tensors, "weight_scale_inv", [], ()))
    edit_tensors(folder, lambda tensors: tensors.update({QUERY + "_scale_inv": torch.ones(2, 2)}))
    with pytest.raises(CheckpointError, match=rf"{QUERY}_scale_inv.*\[2, 2\].*per-tensor"):
        load_model(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32], ids=str)
def test_integer_weights_are_refused_not_cast(folder: Path, dtype: torch.dtype) -> None:
    """An int8 checkpoint with scales would otherwise load, and answer nonsense."""

    def quantise(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if "_proj" in n]:
            tensors[name] = (tensors[name] * 100).to(dtype)
            tensors[name + "_scale"] = torch.tensor(0.01)

    edit_tensors(folder, quantise)
    with pytest.raises(CheckpointError, match=rf"_proj.weight' holds {str(dtype).removeprefix('torch.')}"):
        load_model(folder)


def test_a_scale_beside_a_weight_that_is_not_fp8_is_refused(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({QUERY + "_scale": torch.tensor(2.0)}))
    with pytest.raises(CheckpointError, match=f"no place for: '{QUERY}_scale'"):
        load_model(folder)


# Numbers that are none


def spoil(name: str, number: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors[name].view(-1)[7].fill_(number)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [QUERY, "model.norm.weight", "model.embed_tokens.weight"])
def test_values_that_are_not_finite(folder: Path, name: str, bad: float) -> None:
    edit_tensors(folder, spoil(name, bad))
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: '{name}' holds values that are not finite"):
        load_model(folder)


@pytest.mark.parametrize("asked", [None, torch.float32], ids=["own type", "float32"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_values_of_every_type_are_looked_at(native: Path, stored: torch.dtype, asked: torch.dtype | None) -> None:
    """Also where they are reordered, or turned into another type, on their way."""
    file, name = "consolidated.safetensors", "layers.1.attention.wq.weight"
    edit_tensors(native, lambda tensors: tensors.update({k: v.to(stored) for k, v in tensors.items()}), file)
    load_model(native, dtype=asked)
    edit_tensors(native, spoil(name, float("nan")), file)
    with pytest.raises(CheckpointError, match=f"'{name}' holds values that are not finite"):
        load_model(native, dtype=asked)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_fp8_scales_that_are_not_finite(folder: Path, bad: float) -> None:
    edit_tensors(folder, lambda tensors: to_fp8(tensors, "weight_scale", [], ()))
    edit_tensors(folder, lambda tensors: tensors.update({QUERY + "_scale": torch.tensor(bad)}))
    with pytest.raises(CheckpointError, match=rf"the scale '{QUERY}_scale' is {bad}; a finite number is expected"):
        load_model(folder)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_fp8_values_that_are_not_finite(folder: Path, kind: torch.dtype) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        to_fp8(tensors, "weight_scale", [], ())
        tensors[QUERY] = tensors[QUERY].float().to(kind)
        tensors[QUERY].view(torch.uint8).view(-1)[7] = 0x7F  # NaN in both

    edit_tensors(folder, damage)
    with pytest.raises(CheckpointError, match=f"'{QUERY}' holds values that are not finite"):
        load_model(folder)


@pytest.mark.parametrize("with_native", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_what_is_finite_is_told_from_what_is_not(
    dtype: torch.dtype, with_native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_native:
        monkeypatch.setattr(finite, "native", None)
    for count in (1, 7, 40_000):
        values = torch.randn(count, generator=torch.Generator().manual_seed(0)).to(dtype)
        values[count // 3] = torch.finfo(dtype).max
        values[count // 2] = torch.finfo(dtype).min
        finite.require_finite("it", values)
        for bad in (float("nan"), float("inf"), float("-inf")):
            for place in {0, count // 2, count - 1}:
                spoilt = values.clone()
                spoilt[place] = bad
                with pytest.raises(CheckpointError, match="it holds values"):
                    finite.require_finite("it", spoilt)
    finite.require_finite("it", torch.empty(0, dtype=dtype))


# Every tensor accounted for


ALL_NAMES = [
    "model.embed_tokens.weight",
    "model.norm.weight",
    QUERY,
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.0.self_attn.v_proj.weight",
    "model.layers.2.self_attn.o_proj.weight",
    "model.layers.2.mlp.gate_proj.weight",
    "model.layers.2.mlp.up_proj.weight",
    "model.layers.2.mlp.down_proj.weight",
    "model.layers.0.input_layernorm.weight",
    "model.layers.0.post_attention_layernorm.weight",
]


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_missing_tensor_is_named(folder: Path, name: str) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=f"lacks the tensor '{name}'"):
        load_model(folder)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_misshapen_tensor_is_named(folder: Path, name: str) -> None:
    """Also where the number of elements fits."""
    was: list[int] = []

    def reshape(tensors: dict[str, torch.Tensor]) -> None:
        was.extend(tensors[name].shape)
        tensors[name] = tensors[name].reshape(-1, 2)

    edit_tensors(folder, reshape)
    with pytest.raises(CheckpointError, match=f"'{name}' has the shape") as caught:
        load_model(folder)
    assert f"the config asks for {was}" in str(caught.value)
    assert "model.safetensors" in str(caught.value)


HUGE = 2**31 - 1


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "vocab_size", "num_attention_heads"])
def test_shapes_are_compared_before_memory_is_asked_for(folder: Path, key: str) -> None:
    edit_config(folder, lambda values: values.update({key: HUGE - 1, "head_dim": 12}))
    with pytest.raises(CheckpointError, match="has the shape"):
        load_model(folder)


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "vocab_size"])
def test_shapes_of_a_gguf_file_are_compared_before_memory_is_asked_for(tmp_path: Path, key: str) -> None:
    tiny = tiny_checkpoints.make("mistral-blocks", tmp_path / "made")
    setattr(tiny.reference.config, key, HUGE)
    tiny_gguf.write(tiny, tmp_path / "model.gguf", "F32")
    with pytest.raises(CheckpointError, match=r"model\.gguf: '.*' has the shape .*2147483647"):
        load_model(tmp_path / "model.gguf")


def test_what_is_missing_is_told_before_memory_is_asked_for(folder: Path) -> None:
    edit_config(folder, lambda values: values.update(intermediate_size=HUGE))
    edit_tensors(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if ".mlp." in name])
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'model\.layers\.0\.mlp"):
        load_model(folder)


@pytest.mark.parametrize(
    "changes",
    [{"vocab_size": HUGE}, {"intermediate_size": HUGE}, {"num_attention_heads": HUGE - 1}, {"head_dim": HUGE - 1}],
    ids=lambda changes: "-".join(changes),
)
def test_sizes_beyond_every_model(folder: Path, changes: dict[str, int]) -> None:
    edit_config(folder, lambda values: values.update({"hidden_size": HUGE, "head_dim": 12, **changes}))
    with pytest.raises(ConfigError, match="which no model has"):
        load_model(folder)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.3.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "vision_tower.patch_conv.weight",
        "score.weight",
    ],
)
def test_an_unexpected_tensor_is_named(folder: Path, name: str) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({name: torch.ones(4)}))
    with pytest.raises(CheckpointError, match=f"no place for: '{name}'"):
        load_model(folder)


def test_inverse_frequencies_of_old_checkpoints_are_no_surprise(folder: Path) -> None:
    before = logits(load_model(folder))
    edit_tensors(
        folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(6)})
    )
    assert torch.equal(logits(load_model(folder)), before)


def test_a_checkpoint_of_fewer_layers_than_its_file_is_refused(folder: Path) -> None:
    edit_config(folder, lambda values: values.update(num_hidden_layers=2))
    with pytest.raises(CheckpointError, match=r"9 tensor\(s\).*model\.layers\.2\."):
        load_model(folder)


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "model-2.safetensors")
    with pytest.raises(CheckpointError, match=r"is in both model-2\.safetensors and model\.safetensors"):
        load_model(folder)


def test_the_image_part_is_left_out_and_anything_else_is_not(tmp_path: Path) -> None:
    tiny = tiny_checkpoints.make("mistral3-mistral", tmp_path / "m3")
    assert any("vision_tower" in name for name in load_file(tmp_path / "m3" / "model.safetensors"))
    expected = tiny.reference_logits(IDS.tolist())
    torch.testing.assert_close(logits(load_model(tmp_path / "m3")), expected, atol=1e-4, rtol=0)

    def to_other_names(tensors: dict[str, torch.Tensor]) -> None:
        """From the names that published checkpoints have to those of the modules, as transformers 4.52 saved them."""
        assert "language_model.lm_head.weight" in tensors
        for name in list(tensors):
            new = name.replace("language_model.model.", "model.language_model.")
            new = new.replace("language_model.lm_head.", "lm_head.")
            if name.startswith(("vision_tower.", "multi_modal_projector.")):
                new = "model." + name
            tensors[new] = tensors.pop(name)

    edit_tensors(tmp_path / "m3", to_other_names)
    torch.testing.assert_close(logits(load_model(tmp_path / "m3")), expected, atol=1e-4, rtol=0)
    edit_tensors(tmp_path / "m3", lambda tensors: tensors.update({"audio_tower.weight": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"audio_tower\.weight"):
        load_model(tmp_path / "m3")


# Tied heads


def test_tied_by_the_config(tmp_path: Path) -> None:
    tiny = tiny_checkpoints.make("mistral-tied", tmp_path / "tied")
    model = load_model(tmp_path / "tied")
    assert model.head is None
    torch.testing.assert_close(logits(model), tiny.reference_logits(IDS.tolist()), atol=1e-4, rtol=0)
    # A copy of the embedding as the head is redundant; another tensor is a contradiction.
    edit_tensors(
        tmp_path / "tied",
        lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}),
    )
    assert load_model(tmp_path / "tied").head is None
    edit_tensors(tmp_path / "tied", lambda tensors: tensors["lm_head.weight"][5].add_(1))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight' differs.*tie_word_embeddings"):
        load_model(tmp_path / "tied")


def test_untied_by_the_config_without_a_head_is_refused(folder: Path) -> None:
    edit_config(folder, lambda values: values.update(tie_word_embeddings=False))
    edit_tensors(folder, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'lm_head\.weight'"):
        load_model(folder)


@pytest.mark.parametrize("with_head", [True, False])
@pytest.mark.parametrize("kind", ["mistral-v0.3", "mistral3-mistral"])
def test_a_config_that_does_not_say_leaves_it_to_the_tensors(tmp_path: Path, kind: str, with_head: bool) -> None:
    """The reference's default for mistral3 is tied, which would drop the head that published checkpoints have."""
    tiny = tiny_checkpoints.make(kind, tmp_path / "model")

    def forget(values: dict[str, Any]) -> None:
        values.pop("tie_word_embeddings", None)
        values.get("text_config", {}).pop("tie_word_embeddings", None)

    edit_config(tmp_path / "model", forget)
    if not with_head:
        head = "language_model.lm_head.weight" if kind.startswith("mistral3") else "lm_head.weight"
        edit_tensors(tmp_path / "model", lambda tensors: tensors.pop(head))
    assert open_folder(tmp_path / "model").config.tie_word_embeddings is None
    model = load_model(tmp_path / "model")
    assert (model.head is not None) == with_head
    assert model.config.tie_word_embeddings is not with_head
    same = torch.allclose(logits(model), tiny.reference_logits(IDS.tolist()), atol=1e-4, rtol=0)
    assert same == with_head  # Without its head it is a different, tied model.


# Folders


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        load_model(tmp_path / "nowhere")


def test_an_empty_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json with model\*\.safetensors"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "model.ckpt", "model.pkl"])
def test_pickles_are_refused_and_not_opened(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    trap = tmp_path / "trap"
    # A pickle that creates a file when it is loaded.
    (folder / name).write_bytes(b"cbuiltins\nopen\n(S'" + str(trap).encode() + b"'\nS'w'\ntR.")
    with pytest.raises(CheckpointError, match="pickle") as caught:
        load_model(folder)
    assert name in str(caught.value)
    assert "safetensors" in str(caught.value)
    assert not trap.exists()


def sharded(tmp_path: Path) -> Path:
    return tiny_checkpoints.make("mistral-v0.3", tmp_path / "sharded", shard_size="50KB").folder


def test_a_shard_that_the_index_names_is_missing(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        load_model(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "", "."])
def test_an_index_may_only_name_files_beside_it(tmp_path: Path, name: str) -> None:
    folder = sharded(tmp_path)
    edit_config(folder, lambda values: values["weight_map"].update({QUERY: name}), "model.safetensors.index.json")
    with pytest.raises(CheckpointError, match=r"index\.json|lacks") as caught:
        load_model(folder)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "{}", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}', '{"weight_map": {"a": null}}']
)
def test_a_broken_index(tmp_path: Path, text: str) -> None:
    folder = sharded(tmp_path)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises((CheckpointError, ConfigError), match=r"model\.safetensors\.index\.json"):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff", "[" * 100_000, '{"a": 1e999}'])
@pytest.mark.parametrize("name", ["config.json", "params.json"])
def test_a_config_that_is_not_json(folder: Path, native: Path, text: str, name: str) -> None:
    path = folder if name == "config.json" else native
    (path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        load_model(path)


def test_an_empty_weights_file(folder: Path) -> None:
    header = b"{}"
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"embed_tokens"):
        load_model(folder)


def test_a_shard_that_is_cut_off_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=shard.name) as caught:
        load_model(folder)
    assert "truncated" in str(caught.value)


def test_json_keeps_its_numbers(folder: Path) -> None:
    """The loader changes no file of the folder it reads."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    load_model(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert json.loads(before["config.json"])["model_type"] == "mistral"
