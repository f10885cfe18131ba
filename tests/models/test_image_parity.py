"""Models that see: features, logits and greedy tokens against the reference, by every path through the engine."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_checkpoints
from ostro.core.errors import ConfigError, InvalidRequestError
from ostro.core.media import MediaInput, MediaSpan, Prompt
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest, TokensEvent
from ostro.core.sampling import SamplingParams
from ostro.engine.engine import Engine
from ostro.models.layers.context import DenseContext
from ostro.models.layers.encoder import finished
from ostro.weights.folder import open_folder
from ostro.weights.loader import load_model
from ostro.weights.safetensors_file import SafetensorsFile
from tiny_checkpoints import Tiny

TOLERANCE = 1e-4
IMG, BREAK, END = 10, 12, 13
KINDS = {"mistral3-mistral": 28, "mistral3-ministral3": 28, "llava": 8, "llava-large": 8}
# Rows and columns of tokens: several shapes, one of a single row.
GRIDS = [(2, 3), (1, 4), (3, 2), (4, 5)]


@dataclass(frozen=True)
class Seeing:
    tiny: Tiny
    side: int

    def image(self, seed: int) -> MediaInput:
        rows, columns = GRIDS[seed % len(GRIDS)]
        pixels = torch.randn(3, rows * self.side, columns * self.side, generator=torch.Generator().manual_seed(seed))
        return MediaInput.of("image", pixels.numpy(), (rows, columns))

    def prompt(self, *parts: int | MediaInput) -> Prompt:
        """Text of so many tokens, and images, as a tokenizer lays them out."""
        ids: list[int] = []
        media: list[MediaInput] = []
        for index, part in enumerate(parts):
            if isinstance(part, int):
                generator = torch.Generator().manual_seed(31 * index + part)
                ids += torch.randint(20, 128, (part,), generator=generator).tolist()
                continue
            rows, columns = part.grid
            ids += ([IMG] * columns + [BREAK]) * rows
            ids[-1] = END
            media.append(part)
        return Prompt.placing(ids, media, {"image": IMG})

    def reference_logits(self, prompt: Prompt, answer: Sequence[int] = ()) -> torch.Tensor:
        """The reference wants a batch padded to one size, with every image where it comes in the prompt."""
        order = {span.digest: None for span in prompt.spans}
        inputs = {one.digest: torch.tensor(one.array()) for one in prompt.media}
        images = [inputs[digest] for digest in order]
        height, width = (max(image.shape[side] for image in images) for side in (1, 2))
        pixels = torch.zeros(len(images), 3, height, width)
        for target, image in zip(pixels, images, strict=True):
            target[:, : image.shape[1], : image.shape[2]] = image
        sizes = torch.tensor([image.shape[1:] for image in images])
        with torch.no_grad():
            out: torch.Tensor = self.tiny.reference(
                input_ids=torch.tensor([[*prompt.token_ids, *answer]]), pixel_values=pixels, image_sizes=sizes
            ).logits[0]
        return out


@pytest.fixture(scope="module", params=sorted(KINDS))
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    folder = tmp_path_factory.mktemp("seeing") / request.param
    return Seeing(tiny_checkpoints.make(request.param, folder), KINDS[request.param])


def request(name: str, prompt: Prompt, new: int = 1, **fields: Any) -> EngineRequest:
    return EngineRequest(
        request_id=name,
        prompt_token_ids=prompt.token_ids,
        spans=prompt.spans,
        media=prompt.media,
        params=SamplingParams(temperature=0, max_tokens=new, logprobs=1, **fields),
        seed=0,
    )


def run(engine: Engine, requests: Sequence[EngineRequest]) -> list[list[TokensEvent]]:
    events: dict[str, list[TokensEvent]] = {one.request_id: [] for one in requests}
    for one in requests:
        engine.add(one)
    while engine.has_work:
        for event in engine.step():
            events[event.request_id].append(event)
    return list(events.values())


def make_engine(folder: Path, **options: Any) -> Engine:
    return Engine.load(EngineOptions(**{"model": str(folder), "block_size": 4, "kv_memory": 4_000_000, **options}))


def tokens_of(events: list[TokensEvent]) -> list[int]:
    return [token for event in events for token in event.token_ids]


def check_greedy(seeing: Seeing, prompt: Prompt, events: list[TokensEvent]) -> None:
    tokens = tokens_of(events)
    logits = seeing.reference_logits(prompt, tokens)[len(prompt.token_ids) - 1 : -1]
    best = logits.topk(2, dim=-1).values
    for index, token in enumerate(tokens):
        if best[index, 0] - best[index, 1] > TOLERANCE:
            assert token == int(logits[index].argmax()), f"token {index}"
    expected = logits.log_softmax(-1)[torch.arange(len(tokens)), tokens]
    got = torch.tensor([item.logprob for event in events for item in event.logprobs or []])
    torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)


def test_features_match_the_reference(seeing: Seeing) -> None:
    """All images in one batch, against the reference one by one."""
    encoder = load_model(seeing.tiny.folder).encoder("image")
    assert encoder is not None
    images = [torch.tensor(seeing.image(seed).array()) for seed in range(4)]
    with torch.inference_mode():
        outputs = finished(encoder.encode(images))
        for image, output in zip(images, outputs, strict=True):
            found = seeing.tiny.reference.model.get_image_features(
                pixel_values=image[None], image_sizes=torch.tensor([image.shape[1:]])
            )
            torch.testing.assert_close(output, torch.cat(list(found.pooler_output)), atol=TOLERANCE, rtol=0)


def logits_of(folder: Path, prompt: Prompt) -> torch.Tensor:
    """Of the whole prompt, by the encoder and the decoder alone."""
    model = load_model(folder)
    encoder = model.encoder("image")
    assert encoder is not None
    ids = torch.tensor(prompt.token_ids)
    with torch.inference_mode():
        outputs = finished(encoder.encode([torch.tensor(one.array()) for one in prompt.media]))
        by_digest = {one.digest: output for one, output in zip(prompt.media, outputs, strict=True)}
        x_TD = model.embed(ids, model.dtype)
        for span in prompt.spans:
            x_TD[span.start : span.stop] = by_digest[span.digest][span.offset : span.offset + span.length]
        return model.logits(model(x_TD, torch.arange(len(ids)), DenseContext()))


def test_logits_of_whole_prompts_match_the_reference(seeing: Seeing) -> None:
    """At every place of a text, before, between and behind images, and at those of the images themselves."""
    one, two, three, four = (seeing.image(seed) for seed in range(4))
    for prompt in (
        seeing.prompt(9, one, 20),
        seeing.prompt(two, 40),
        seeing.prompt(12, four, 5, one, three),
        seeing.prompt(70, two, 30, three, 11),
    ):
        expected = seeing.reference_logits(prompt)
        torch.testing.assert_close(logits_of(seeing.tiny.folder, prompt), expected, atol=TOLERANCE, rtol=0)


def test_features_in_bfloat16_are_as_near_as_the_reference_s(seeing: Seeing) -> None:
    """Against the reference in the same type, and against what is exact: ours may be hardly further from it."""
    encoder = load_model(seeing.tiny.folder, dtype=torch.bfloat16).encoder("image")
    assert encoder is not None
    reference = copy.deepcopy(seeing.tiny.reference).to(torch.bfloat16)
    images = [torch.tensor(seeing.image(seed).array()) for seed in range(4)]
    with torch.inference_mode():
        outputs = finished(encoder.encode(images))
        for image, output in zip(images, outputs, strict=True):
            sizes = torch.tensor([image.shape[1:]])
            theirs, exact = (
                torch.cat(list(model.model.get_image_features(pixel_values=pixels, image_sizes=sizes).pooler_output))
                for model, pixels in ((reference, image[None].bfloat16()), (seeing.tiny.reference, image[None]))
            )
            assert output.dtype == theirs.dtype == torch.bfloat16
            ours, theirs = output.float(), theirs.float()
            assert (ours - theirs).norm() < 0.02 * exact.norm()
            assert (ours - exact).norm() < 1.5 * (theirs - exact).norm()


def test_a_large_image_is_encoded_in_pieces(seeing: Seeing) -> None:
    """More rows than a piece has, so that every cut is crossed."""
    encoder = load_model(seeing.tiny.folder).encoder("image")
    assert encoder is not None
    pixels = torch.randn(3, 17 * seeing.side, 19 * seeing.side, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        work = encoder.encode([pixels])
        steps = 0
        while True:
            try:
                next(work)
            except StopIteration as end:
                (output,) = end.value
                break
            steps += 1
        assert steps > 10
        found = seeing.tiny.reference.model.get_image_features(
            pixel_values=pixels[None], image_sizes=torch.tensor([pixels.shape[1:]])
        )
    torch.testing.assert_close(output, torch.cat(list(found.pooler_output)), atol=TOLERANCE, rtol=0)


CASES: dict[str, dict[str, Any]] = {
    "whole": {},
    "chunked": {"max_batch_tokens": 16, "max_num_seqs": 8},
    "speculated": {"max_batch_tokens": 64, "max_num_seqs": 8, "speculate": 4},
    "uncached": {"prefix_caching": False},
    "no room for encodings": {"encoder_cache": 0},
    "crowded": {"max_batch_tokens": 64, "max_num_seqs": 8, "kv_memory": 400_000},
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_mixed_batches_match_the_reference_and_each_request_alone(seeing: Seeing, case: str) -> None:
    one, two, three, four = (seeing.image(seed) for seed in range(4))
    prompts = [
        seeing.prompt(9, one, 20),
        seeing.prompt(30),
        seeing.prompt(four, 5, one, 3, two),
        seeing.prompt(50, three, two, 7),
        seeing.prompt(3, four, 40),
    ]
    requests = [request(str(index), prompt, new=12) for index, prompt in enumerate(prompts)]
    engine = make_engine(seeing.tiny.folder, **CASES[case])
    together = run(engine, requests)
    for prompt, events in zip(prompts, together, strict=True):
        if prompt.media:
            check_greedy(seeing, prompt, events)
    engine.blocks.check([])
    engine.clear_prefix_cache()
    for one_request, events in zip(requests, together, strict=True):
        (alone,) = run(engine, [one_request])
        assert tokens_of(alone) == tokens_of(events)


def test_an_image_is_encoded_once_and_its_prefix_is_reused(seeing: Seeing) -> None:
    engine = make_engine(seeing.tiny.folder)
    image, other = seeing.image(3), seeing.image(7)
    assert image.grid == other.grid
    assert image.digest != other.digest
    run(engine, [request("a", seeing.prompt(6, image, 9))])
    assert (engine.stats().media_queries, engine.stats().media_hits) == (1, 0)
    ((again,),) = run(engine, [request("b", seeing.prompt(6, image, 30))])
    assert again.cached_tokens >= 28, "text, image, and what of the text is the same"
    assert (engine.stats().media_queries, engine.stats().media_hits) == (2, 1)
    ((moved,),) = run(engine, [request("c", seeing.prompt(7, image, 9))])
    assert moved.cached_tokens < 8, "other text before it: nothing of the prefix is the same"
    assert (engine.stats().media_queries, engine.stats().media_hits) == (3, 2), "but the image is encoded"
    ((another,),) = run(engine, [request("d", seeing.prompt(6, other, 9))])
    assert another.cached_tokens == 4, "same tokens, another image: only whole blocks before it are the same"
    check_greedy(seeing, seeing.prompt(6, other, 9), [another])


def test_an_image_whose_request_ends_is_not_encoded_on(seeing: Seeing) -> None:
    engine = make_engine(seeing.tiny.folder)
    engine.scheduler.pace.encode_s = lambda **_: 1e-9  # type: ignore[method-assign]  # one piece a step
    engine.add(request("a", seeing.prompt(6, seeing.image(3), 9)))
    engine.step()
    engine.step()
    assert engine.scheduler.encodings.pending
    engine.abort("a")
    (events,) = run(engine, [request("b", seeing.prompt(12))])
    assert len(tokens_of(events)) == 1
    assert not engine.scheduler.encodings.pending
    assert engine.runner.encoders._job is None
    prompt = seeing.prompt(5, seeing.image(3), 11)
    (events,) = run(engine, [request("c", prompt, new=4)])
    check_greedy(seeing, prompt, events)


def test_an_encoder_without_numbers_ends_its_request_only(seeing: Seeing) -> None:
    engine = make_engine(seeing.tiny.folder)
    encoder = engine.runner.model.encoder("image")
    assert encoder is not None
    encoder.norm.weight.data[0] = float("nan")  # type: ignore[union-attr, index, operator]  # its RMSNorm
    seen, text = run(engine, [request("a", seeing.prompt(6, seeing.image(3), 9), 4), request("b", seeing.prompt(8), 4)])
    assert seen[-1].finish_reason == "error"
    assert "the image is not finite" in (seen[-1].error or "")
    assert len(tokens_of(text)) == 4


def test_what_does_not_fit_the_prompt_is_refused(seeing: Seeing) -> None:
    engine = make_engine(seeing.tiny.folder)
    image = seeing.image(0)
    good = seeing.prompt(6, image, 9)

    def refused(match: str, **changes: Any) -> None:
        fields = {"token_ids": good.token_ids, "spans": good.spans, "media": good.media, **changes}
        with pytest.raises(InvalidRequestError, match=match):
            engine.add(request("x", Prompt(**fields)))

    first = good.spans[0]
    refused("is not one of an input", media=[])
    refused("no place for its image", spans=[])
    refused("is not one of an input", spans=[MediaSpan(40, 4, image.digest, "image")])
    refused("is not one of an input", spans=[first, first])
    refused("is not one of an input", spans=[MediaSpan(3, 2, image.digest, "audio")])
    refused("places for an image of 6", spans=[MediaSpan(3, 5, image.digest, "image", 3)])
    sound = MediaInput.of("sound", image.array(), image.grid)
    refused("no encoder for", media=[sound], spans=[MediaSpan(3, 2, sound.digest, "sound")])
    wrong = MediaInput.of("image", image.array(), (3, 2))
    refused("encoder takes 3 channels", media=[wrong], spans=[MediaSpan(3, 2, wrong.digest, "image")])
    short = MediaInput("image", "ab", image.shape, image.data[:-4], image.grid)
    refused("encoder takes 3 channels", media=[short], spans=[MediaSpan(3, 2, "ab", "image")])
    assert not engine.has_work


NATIVE_VISION = {
    "hidden_size": 32,
    "num_channels": 3,
    "max_image_size": 112,
    "image_size": 112,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "rope_theta": 10000.0,
    "image_token_id": IMG,
    "image_break_token_id": BREAK,
    "image_end_token_id": END,
}


@pytest.mark.parametrize("kind", ["mistral3-mistral", "llava"])
def test_native_folders_give_the_same(kind: str, tmp_path: Path) -> None:
    """Small 3.1 merges patches and has no biases; Pixtral 12B says nothing of either and has the biases."""
    seeing = Seeing(tiny_checkpoints.make(kind, tmp_path / "hf"), KINDS[kind])
    merged = {
        "patch_size": 14,
        "adapter_bias": False,
        "mm_projector_id": "patch_merge",
        "spatial_merge_size": 2,
        "add_pre_mm_projector_layer_norm": True,
    }
    vision = NATIVE_VISION | (merged if kind != "llava" else {"patch_size": 8, "adapter_bias": True})
    tiny_checkpoints.to_native(seeing.tiny, tmp_path / "native", {"vision_encoder": vision})
    prompt = seeing.prompt(9, seeing.image(3), 20)
    (events,) = run(make_engine(tmp_path / "native"), [request("a", prompt, 8)])
    check_greedy(seeing, prompt, events)


def test_pixtral_large_as_it_is_published_gives_the_same(tmp_path: Path) -> None:
    """A native folder of several files, whose projector has no biases and whose rotary base is not the usual one."""
    seeing = Seeing(tiny_checkpoints.make("llava-large", tmp_path / "hf"), KINDS["llava-large"])
    vision = NATIVE_VISION | {"patch_size": 8, "adapter_bias": False}
    folder = tmp_path / "native"
    tiny_checkpoints.to_native(seeing.tiny, folder, {"rope_theta": 1e9, "vision_encoder": vision})
    whole = load_file(folder / "consolidated.safetensors")
    assert not any(name.startswith("vision_language_adapter") and name.endswith("bias") for name in whole)
    (folder / "consolidated.safetensors").unlink()
    names = sorted(whole)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        save_file({name: whole[name] for name in part}, folder / f"consolidated-{number:05}-of-00002.safetensors")
    prompt = seeing.prompt(9, seeing.image(3), 60, seeing.image(1))
    torch.testing.assert_close(logits_of(folder, prompt), seeing.reference_logits(prompt), atol=TOLERANCE, rtol=0)
    (events,) = run(make_engine(folder), [request("a", prompt, 8)])
    check_greedy(seeing, prompt, events)


def test_a_folder_as_the_hub_has_it_gives_the_same(tmp_path: Path) -> None:
    """Names as they were before transformers 4.52."""
    seeing = Seeing(tiny_checkpoints.make("mistral3-mistral", tmp_path / "m"), 28)
    file = tmp_path / "m" / "model.safetensors"
    names = {}
    for name, value in load_file(file).items():
        renamed = name.replace("model.language_model.", "language_model.model.").replace("model.vision", "vision")
        renamed = renamed.replace("model.multi_modal", "multi_modal")
        names["language_model." + renamed if renamed.startswith("lm_head") else renamed] = value
    assert any(name.startswith("vision_tower.") for name in names)
    save_file(names, file, metadata={"format": "pt"})
    prompt = seeing.prompt(9, seeing.image(3), 20)
    (events,) = run(make_engine(tmp_path / "m"), [request("a", prompt, 8)])
    check_greedy(seeing, prompt, events)


def test_quantised_weights_leave_the_encoder_as_it_is(tmp_path: Path) -> None:
    seeing = Seeing(tiny_checkpoints.make("mistral3-mistral", tmp_path / "m"), 28)
    plain, quantised = make_engine(tmp_path / "m"), make_engine(tmp_path / "m", quantize="int8")
    assert quantised.runner.model.quantised
    image = torch.tensor(seeing.image(3).array())
    outputs = []
    for engine in (plain, quantised):
        encoder = engine.runner.model.encoder("image")
        assert encoder is not None
        with torch.inference_mode():
            outputs.append(finished(encoder.encode([image]))[0])
    assert torch.equal(*outputs)
    (events,) = run(quantised, [request("a", seeing.prompt(9, seeing.image(3), 20), 8)])
    assert len(tokens_of(events)) == 8


def test_every_tensor_of_the_encoder_is_accounted_for(seeing: Seeing) -> None:
    """An image part whose weights are not loaded would see noise."""
    model = load_model(seeing.tiny.folder)
    with SafetensorsFile(next(seeing.tiny.folder.glob("*.safetensors"))) as file:
        stored = sum(entry.size // entry.dtype.itemsize for entry in file.tensors.values())
    assert model.size()[0] == stored


@pytest.mark.parametrize(
    ("where", "key", "value", "match"),
    [
        ("vision_config", "model_type", "clip_vision_model", "clip_vision_model"),
        ("vision_config", "hidden_act", "relu", "relu"),
        ("vision_config", "num_attention_heads", 3, "heads"),
        ("vision_config", "windowed", True, "windowed"),
        ("", "vision_feature_layer", -2, "vision_feature_layer"),
        ("", "vision_feature_layer", [-1, -2], "vision_feature_layer"),
    ],
)
def test_configs_of_other_encoders_are_refused(
    seeing: Seeing, tmp_path: Path, where: str, key: str, value: Any, match: str
) -> None:
    import json
    import shutil

    shutil.copytree(seeing.tiny.folder, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (config[where] if where else config)[key] = value
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=match):
        open_folder(tmp_path / "m")
