"""The unified architecture: a dense decoder with everything off, and each option against a slow obvious reference."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tiny_checkpoints
from ostro.core.errors import CheckpointError, ConfigError, InvalidRequestError
from ostro.core.media import MediaInput, Prompt
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest, TokensEvent
from ostro.core.sampling import SamplingParams
from ostro.engine.engine import Engine
from ostro.models.config import DecoderConfig
from ostro.models.layers.context import DenseContext
from ostro.models.layers.decoder import Decoder, FeedForward
from ostro.models.layers.encoder import finished
from ostro.models.ostro import model as unified
from ostro.models.ostro.config import (
    MODALITIES,
    AdapterConfig,
    GateConfig,
    LabelGroup,
    OstroConfig,
    parse,
)
from ostro.models.ostro.encoder import Convolution, StemEncoder
from ostro.models.ostro.model import Levels, NestedFeedForward, RoutedAttention, UnifiedDecoder
from ostro.models.ostro.stems import ConvConfig, StemConfig
from ostro.weights.loader import load_model
from ostro.weights.writer import save_checkpoint

IMAGE, AUDIO, SERIES = 10, 24, 40
SEES = StemConfig(
    modality="image",
    channels=3,
    convolutions=(ConvConfig(16, 3, 2), ConvConfig(16, residual=True), ConvConfig(32, pool=2)),
    num_layers=2,
    num_heads=2,
    intermediate_size=48,
    placeholder=IMAGE,
)
HEARS = StemConfig("audio", 20, (ConvConfig(24, 3, 1), ConvConfig(32, 3, 2)), 1, 2, 32, AUDIO)
COUNTS = StemConfig("series", 2, (ConvConfig(16, 4, 4),), 0, 1, 1, SERIES)
WIDTHS = (32, 64, 128)
# Of a head of 16 dimensions, those that routing fills.
ROUTED = [6, 7, 14, 15]


def config(**changes: Any) -> OstroConfig:
    base = DecoderConfig(
        architecture="ostro",
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        max_position_embeddings=512,
        windows=(0, 0, 16, 0),
        tie_word_embeddings=False,
    )
    fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    return OstroConfig(**{**fields, **changes})


WHOLE: dict[str, Any] = {
    "windows": (0,) * 4,
    "encoders": (SEES, HEARS, COUNTS),
    "adapter": AdapterConfig(layer=2, width=8),
    "gate": GateConfig(layer=1, widths=WIDTHS, thresholds=(0.0, 0.0)),
    "routing": True,
    "unrotated": 2,
    "labels": (LabelGroup("photo", ("cat", "dog")), LabelGroup("digit", ("0", "1", "2"))),
    "embedding": 24,
}


def make(seed: int = 0, **changes: Any) -> UnifiedDecoder:
    torch.manual_seed(seed)
    model = UnifiedDecoder(config(**changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.15)
    return model.eval()


def ids_of(length: int, seed: int) -> torch.Tensor:
    return torch.randint(50, 128, (length,), generator=torch.Generator().manual_seed(seed))


def run(model: Decoder, ids_T: torch.Tensor, modalities_T: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
    with torch.inference_mode():
        context = DenseContext(modalities_T=modalities_T)
        out: torch.Tensor = model.logits(model(ids_T, torch.arange(len(ids_T)), context, **options))
    return out


# Everything off


def test_with_everything_off_it_is_the_dense_decoder_bit_by_bit(tmp_path: Path) -> None:
    tiny = tiny_checkpoints.make("mistral-nemo", tmp_path / "m")
    ids = ids_of(90, 1)
    dense = run(load_model(tiny.folder), ids)
    file = tiny.folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "ostro"}))
    model = load_model(tiny.folder)
    assert isinstance(model, UnifiedDecoder)
    assert torch.equal(run(model, ids), dense)
    assert model.label_scores(torch.zeros(48)) == []


def test_with_everything_on_and_neutral_it_is_the_dense_decoder() -> None:
    """All channels for every token, routes and adapters that add nothing: the dense decoder with the same weights,
    whose channels are the segments' one after the other."""
    model = make(**WHOLE | {"gate": GateConfig(1, WIDTHS, (-1e9, -1e9))})
    dense = Decoder(config(windows=(0,) * 4, unrotated=2))
    weights = model.state_dict()
    for name in dense.state_dict():
        if ".feed_forward." in name:
            layer, part = name.split(".feed_forward.")
            segments = [weights[f"{layer}.feed_forward.segments.{i}.{part}"] for i in range(3)]
            if part == "down.weight":
                weights[name] = torch.cat(segments, 1)
            else:
                weights[name] = torch.cat([s.chunk(2)[half] for half in range(2) for s in segments])
    dense.load_state_dict({name: weights[name] for name in dense.state_dict()})
    with torch.no_grad():
        for block in model.layers:
            block.attention.router.weight.zero_()  # type: ignore[union-attr]  # a Module's attributes have no types
            block.attention.qkv.weight.copy_(_silent(block.attention))  # type: ignore[union-attr]  # a Module's attributes have no types
        for name, block in zip(range(4), dense.layers, strict=True):
            block.attention.qkv.weight.copy_(model.layers[name].attention.qkv.weight)  # type: ignore[union-attr, index]  # a Module's attributes have no types
        for adapter in model.adapters.values():
            adapter.up.weight.zero_()  # type: ignore[union-attr]  # a Module's attributes have no types
    ids = ids_of(60, 2)
    modalities = torch.arange(60) % 4
    # Layers before the gate run text narrow; the same layers with all channels are what is compared.
    top = torch.full((60,), 2)
    torch.testing.assert_close(run(model, ids, modalities, levels_T=top), run(dense, ids), atol=1e-4, rtol=0)


def _silent(attention: Any) -> torch.Tensor:
    """The projection without what routing overwrites, so that the dense decoder has nothing there either."""
    weight = attention.qkv.weight.clone().view(-1, attention.spec.head_dim, 64)
    weight[: attention.spec.heads + attention.spec.kv_heads, ROUTED] = 0
    return weight.view(attention.qkv.weight.shape)


# Channels


def slow_feed_forward(layer: NestedFeedForward, x_TD: torch.Tensor, levels: Sequence[int]) -> torch.Tensor:
    """Each row by itself, channel by channel up to its width, as masks would have it."""
    gate = torch.cat([s.gate_up.part("gate") for s in layer.segments])  # type: ignore[union-attr, operator]  # a Module's attributes have no types
    up = torch.cat([s.gate_up.part("up") for s in layer.segments])  # type: ignore[union-attr, operator]  # a Module's attributes have no types
    down = torch.cat([s.down.weight for s in layer.segments], 1)  # type: ignore[union-attr, misc, list-item]  # a Module's attributes have no types
    rows = []
    for x_D, level in zip(x_TD, levels, strict=True):
        inner_F = F.silu(gate @ x_D) * (up @ x_D)
        inner_F[WIDTHS[level] :] = 0
        rows.append(down @ inner_F)
    return torch.stack(rows)


@pytest.mark.parametrize(
    "levels", [[0] * 9, [2] * 9, [1] * 9, [0, 1, 2, 2, 1, 0, 0, 1, 2], [0, 0, 0, 0, 0, 0, 0, 0, 2]]
)
@pytest.mark.parametrize("laid_out", [False, True])
def test_narrow_rows_run_the_first_channels(levels: list[int], laid_out: bool) -> None:
    model = make(**WHOLE)
    layer = model.layers[0].feed_forward
    assert isinstance(layer, NestedFeedForward)
    x_TD = torch.randn(9, 64)
    slow = slow_feed_forward(layer, x_TD, levels)
    if laid_out:
        layer.lay_out()
    with torch.inference_mode():
        out = layer(x_TD, Levels.of(torch.tensor(levels), 3))
        torch.testing.assert_close(out, slow, atol=1e-5, rtol=0)
        if set(levels) == {2}:
            torch.testing.assert_close(layer(x_TD, None), slow, atol=1e-5, rtol=0)


@pytest.mark.parametrize("levels", [[1] * 9, [0, 1, 2, 2, 1, 0, 0, 1, 2]])
def test_gradients_are_those_of_the_slow_layer(levels: list[int]) -> None:
    """Of the rows, and of the weights that each segment ends with."""
    layer = make(**WHOLE).requires_grad_(True).layers[0].feed_forward
    assert isinstance(layer, NestedFeedForward)
    x_TD, goal_TD = torch.randn(9, 64, requires_grad=True), torch.randn(9, 64)
    weights = [x_TD, *(value for name, value in layer.named_parameters() if name.endswith("down.weight"))]
    ours = torch.autograd.grad(
        (layer(x_TD, Levels.of(torch.tensor(levels), 3)) * goal_TD).sum(), weights, allow_unused=True
    )
    slow = torch.autograd.grad((slow_feed_forward(layer, x_TD, levels) * goal_TD).sum(), weights)
    for mine, theirs in zip(ours, slow, strict=True):
        assert mine is not None or (max(levels) < 2 and not theirs.any()), "no segment that ran is without one"
        torch.testing.assert_close(theirs if mine is None else mine, theirs, atol=1e-4, rtol=0)


def test_weights_that_are_laid_out_may_change_and_move() -> None:
    """They are the same memory as what runs, and what is copied elsewhere doesn't run by the old ones."""
    layer = make(**WHOLE).layers[0].feed_forward
    assert isinstance(layer, NestedFeedForward)
    levels, x_TD = Levels.of(torch.tensor([1] * 5), 3), torch.randn(5, 64)
    layer.lay_out()
    names = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.load_state_dict({name: value * 1.5 for name, value in names.items()})
    with torch.inference_mode():
        torch.testing.assert_close(layer(x_TD, levels), slow_feed_forward(layer, x_TD, [1] * 5), atol=1e-4, rtol=0)
    layer.double()
    layer.load_state_dict(names)
    with torch.inference_mode():
        moved = layer(x_TD.double(), levels)
        torch.testing.assert_close(moved, slow_feed_forward(layer, x_TD.double(), [1] * 5))


def test_levels_of_one_row_are_those_of_many() -> None:
    for level in range(3):
        one, many = Levels.of(torch.tensor([level]), 3), Levels.of(torch.tensor([level] * 4), 3)
        assert one.order_T is many.order_T is None
        assert [count > 0 for count in one.counts] == [count > 0 for count in many.counts]
        assert one.counts == (1,) * level + (0,) * (2 - level)
    assert Levels.of(torch.tensor([0, 1]), 3).order_T is not None


@pytest.mark.parametrize("laid_out", [False, True])
def test_channels_that_are_pruned_are_not_computed(monkeypatch: pytest.MonkeyPatch, laid_out: bool) -> None:
    """Real smaller products: rows times channels of every product that runs."""
    model = make(**WHOLE)
    if laid_out:
        model.lay_out()
    ran: list[tuple[int, int]] = []
    plain, plain_product = FeedForward.forward, unified.linear

    def counted(self: FeedForward, x_TD: torch.Tensor) -> torch.Tensor:
        ran.append((len(x_TD), self.down.in_features))
        return plain(self, x_TD)

    def product(x_TI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
        if weight_OI.stride(0) == 1:  # the second of two
            ran.append((len(x_TI), x_TI.shape[1]))
        return plain_product(x_TI, weight_OI)

    monkeypatch.setattr(FeedForward, "forward", counted)
    monkeypatch.setattr(unified, "linear", product)
    ids = ids_of(50, 3)
    for level, share in ((0, 0.25), (1, 0.5), (2, 1.0)):
        ran.clear()
        run(model, ids, levels_T=torch.full((50,), level))
        assert sum(rows * width for rows, width in ran) == 50 * 128 * 4 * share
    ran.clear()
    run(model, ids)
    gated = sum(rows * width for rows, width in ran)
    assert 50 * 128 * 4 * 0.25 <= gated < 50 * 128 * 4


def test_levels_follow_the_gate_and_other_senses_run_whole() -> None:
    model = make(**WHOLE)
    ids, modalities = ids_of(40, 4), torch.tensor([0] * 20 + [1] * 10 + [0] * 10)
    scores: list[torch.Tensor] = []
    plain = run(model, ids, modalities, scores=scores)
    (scores_TL,) = scores
    above = (scores_TL > 0).tolist()
    levels = torch.tensor([0 if not first else 1 if not second else 2 for first, second in above])
    levels[modalities != 0] = 2
    assert len(set(levels.tolist())) == 3, "the scores of a random gate are on both sides"
    first = torch.where(modalities == 0, 0, 2)
    # Before the gate text is narrow, behind it as the gate says: the two stages run apart.
    positions = torch.arange(40)
    with torch.inference_mode():
        stream = model(ids, positions, DenseContext(modalities_T=modalities), range(0, 1), levels_T=first)
        hidden = model(stream, positions, DenseContext(modalities_T=modalities), range(1, 4), levels_T=levels)
        torch.testing.assert_close(model.logits(hidden), plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [1, 17, 39])
def test_nothing_sees_what_comes_after_it(length: int) -> None:
    """Widths too: a token's level does not depend on later ones."""
    model = make(**WHOLE)
    ids, modalities = ids_of(40, 5), torch.tensor([0] * 10 + [1] * 10 + [2] * 10 + [0] * 10)
    whole = run(model, ids, modalities)
    part = run(model, ids[:length], modalities[:length])
    torch.testing.assert_close(part, whole[:length], atol=1e-4, rtol=0)


# Routing


def test_routes_are_factors_on_the_weights_of_a_sense() -> None:
    """Attention with the added scores written out, against routes that ride in the heads."""
    model = make(**WHOLE)
    attention = model.layers[1].attention
    assert isinstance(attention, RoutedAttention)
    spec, count = attention.spec, 30
    x_TD = torch.randn(count, 64)
    modalities = torch.randint(0, 4, (count,), generator=torch.Generator().manual_seed(0))
    rotation = model.rotary(torch.arange(count))
    with torch.inference_mode():
        ours = attention(x_TD, rotation, DenseContext(modalities_T=modalities))
        qkv = (x_TD @ attention.qkv.weight.T).view(count, -1, 16)  # type: ignore[union-attr]  # a Module's attributes have no types
        kept = [d for d in range(16) if d not in ROUTED]
        routes = (x_TD @ attention.router.weight.T).view(count, 4, 4)  # type: ignore[union-attr]  # a Module's attributes have no types
        half = 8
        cos, sin = rotation.cos, rotation.sin
        outs = []
        for head in range(4):
            q, k, v = qkv[:, head], qkv[:, 4 + head // 2], qkv[:, 6 + head // 2]
            q, k = (
                torch.cat((x[:, :half] * cos - x[:, half:] * sin, x[:, half:] * cos + x[:, :half] * sin), 1)
                for x in (q, k)
            )
            scores = q[:, kept] @ k[:, kept].T * spec.scale + routes[:, head][:, modalities]
            scores = scores.masked_fill(torch.ones(count, count).triu(1).bool(), float("-inf"))
            outs.append(scores.softmax(1) @ v)
        expected = torch.cat(outs, 1) @ attention.output.weight.T  # type: ignore[union-attr]  # a Module's attributes have no types
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_routes_can_be_watched() -> None:
    model = make(**WHOLE)
    attention = model.layers[2].attention
    assert isinstance(attention, RoutedAttention)
    attention.watch = []
    run(model, ids_of(20, 6), torch.arange(20) % 4)
    assert attention.watch[0].shape == (20, len(MODALITIES))
    assert (attention.watch[0] > 0).all()


# Adapters


def test_an_adapter_moves_the_rows_of_its_sense_behind_its_layer() -> None:
    """Each row by itself: what its sense's adapter makes of the stream between two runs of layers without adapters."""
    layer = 2
    model = make(**WHOLE | {"gate": None, "adapter": AdapterConfig(layer, 8)})
    ids, modalities = ids_of(40, 7), torch.arange(40) // 5 % 4
    whole = run(model, ids, modalities)
    adapters = {name: adapter.state_dict() for name, adapter in model.adapters.items()}
    adapters = {name: {key: value.clone() for key, value in state.items()} for name, state in adapters.items()}
    with torch.no_grad():
        for adapter in model.adapters.values():
            adapter.up.weight.zero_()  # type: ignore[union-attr, operator]  # a Module's attributes have no types
    positions, context = torch.arange(40), DenseContext(modalities_T=modalities)
    with torch.inference_mode():
        stream = model(ids, positions, context, range(layer)).clone()
        for index, modality in enumerate(modalities.tolist()):
            if modality == 0:
                continue
            weights = adapters[MODALITIES[modality]]
            x_D = stream[index]
            normed_D = x_D / (x_D.square().mean() + 1e-5).sqrt() * weights["norm.weight"]
            stream[index] = x_D + weights["up.weight"] @ F.silu(weights["down.weight"] @ normed_D)
        slow = model.logits(model(stream, positions, context, range(layer, 4)))
    torch.testing.assert_close(whole, slow, atol=1e-4, rtol=0)
    assert not torch.allclose(whole, run(model, ids, modalities), atol=0.1), "adapters do something"


def test_an_adapter_leaves_other_senses_alone() -> None:
    model = make(**WHOLE)
    ids, modalities = ids_of(40, 8), torch.tensor([0] * 10 + [1] * 20 + [0] * 10)
    before = run(model, ids, modalities)
    for name, same in (("audio", True), ("series", True), ("image", False)):
        with torch.no_grad():
            for parameter in model.adapters[name].parameters():
                parameter.add_(torch.randn_like(parameter))
        assert torch.equal(run(model, ids, modalities), before) is same, name


# The engine


def image(seed: int, rows: int, columns: int) -> MediaInput:
    pixels = torch.randn(3, rows * 4, columns * 4, generator=torch.Generator().manual_seed(seed))
    return MediaInput.of("image", pixels.numpy(), (rows, columns))


def sound(seed: int, tokens: int) -> MediaInput:
    mel = torch.randn(1, 20, tokens * 2, generator=torch.Generator().manual_seed(seed))
    return MediaInput.of("audio", mel.numpy(), (1, tokens))


def series(seed: int, tokens: int) -> MediaInput:
    numbers = torch.randn(2, 1, tokens * 4, generator=torch.Generator().manual_seed(seed))
    return MediaInput.of("series", numbers.numpy(), (1, tokens))


PLACES = {"image": IMAGE, "audio": AUDIO, "series": SERIES}


def prompt(*parts: int | MediaInput) -> Prompt:
    ids: list[int] = []
    media = []
    for index, part in enumerate(parts):
        if isinstance(part, int):
            ids += ids_of(part, 100 + index).tolist()
        else:
            ids += [PLACES[part.modality]] * part.tokens
            media.append(part)
    return Prompt.placing(ids, media, PLACES)


def reference(model: UnifiedDecoder, one: Prompt, answer: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of prompt and answer in one dense pass, and the hidden state at the prompt's end."""
    ids = torch.tensor([*one.token_ids, *answer])
    modalities = torch.zeros(len(ids), dtype=torch.int64)
    with torch.inference_mode():
        x_TD = model.embed(ids, torch.float32)
        inputs = {media.digest: media for media in one.media}
        for span in one.spans:
            encoder = model.encoder(span.modality)
            assert encoder is not None
            (rows,) = finished(encoder.encode([torch.tensor(inputs[span.digest].array())]))
            x_TD[span.start : span.stop] = rows[span.offset : span.offset + span.length]
            modalities[span.start : span.stop] = MODALITIES.index(span.modality)
        hidden = model(x_TD, torch.arange(len(ids)), DenseContext(modalities_T=modalities))
        return model.logits(hidden), hidden[len(one.token_ids) - 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unified") / "m"
    save_checkpoint(make(**WHOLE), folder, dtype=torch.float32)
    return folder


def drain(engine: Engine, prompts: Sequence[Prompt], new: int = 10) -> list[list[TokensEvent]]:
    events: list[list[TokensEvent]] = [[] for _ in prompts]
    for index, one in enumerate(prompts):
        params = SamplingParams(temperature=0, max_tokens=new, logprobs=0)
        engine.add(
            EngineRequest(
                request_id=str(index),
                prompt_token_ids=one.token_ids,
                spans=one.spans,
                media=one.media,
                params=params,
                seed=0,
            )
        )
    while engine.has_work:
        for event in engine.step():
            events[int(event.request_id)].append(event)
    return events


PROMPTS = [
    prompt(12),
    prompt(5, image(0, 2, 3), 9),
    prompt(sound(1, 11), 4),
    prompt(3, series(2, 6), 3, image(1, 4, 4), sound(3, 5), 20),
    prompt(40, image(0, 2, 3), 2),
]


@pytest.mark.parametrize("budget", [1024, 13])
def test_mixed_batches_match_the_dense_pass(folder: Path, budget: int) -> None:
    engine = Engine.load(
        EngineOptions(model=str(folder), block_size=4, kv_memory=4_000_000, max_batch_tokens=budget, max_num_seqs=8)
    )
    model = engine.runner.model
    assert isinstance(model, UnifiedDecoder)
    for one, events in zip(PROMPTS, drain(engine, PROMPTS), strict=True):
        tokens = [token for event in events for token in event.token_ids]
        logits, at_end = reference(model, one, tokens)
        logits = logits[len(one.token_ids) - 1 : -1].log_softmax(-1)
        got = torch.tensor([item.logprob for event in events for item in event.logprobs or []])
        torch.testing.assert_close(got, logits[torch.arange(len(tokens)), tokens], atol=1e-3, rtol=0)
        assert [label.label for label in events[0].labels] == [one.label for one in model.label_scores(at_end)]
        assert all(not event.labels for event in events[1:])


def test_prefixes_are_reused_with_what_was_seen(folder: Path) -> None:
    engine = Engine.load(EngineOptions(model=str(folder), block_size=4, kv_memory=4_000_000))
    (first,) = drain(engine, [PROMPTS[3]])
    (again,) = drain(engine, [PROMPTS[3]])
    assert again[0].cached_tokens > 40
    assert [event.token_ids for event in again] == [event.token_ids for event in first]
    assert [(one.label, one.group) for one in again[0].labels] == [(one.label, one.group) for one in first[0].labels]


def test_vectors_are_of_the_shared_space(folder: Path) -> None:
    engine = Engine.load(EngineOptions(model=str(folder), block_size=4, kv_memory=4_000_000))
    for index, one in enumerate(PROMPTS):
        engine.add(
            EngineRequest(
                request_id=str(index),
                prompt_token_ids=one.token_ids,
                spans=one.spans,
                media=one.media,
                params=SamplingParams(max_tokens=1),
                seed=0,
                pooling="mean",
            )
        )
    sizes = set()
    while engine.has_work:
        sizes |= {len(event.embedding or b"") for event in engine.step()}
    assert sizes == {24 * 4}


def test_quantised_on_load_it_still_answers(folder: Path) -> None:
    engine = Engine.load(EngineOptions(model=str(folder), block_size=4, kv_memory=4_000_000, quantize="int8"))
    assert engine.runner.model.quantised
    assert engine.runner._native is None, "its layers are not those of the native step"
    for one, events in zip(PROMPTS, drain(engine, PROMPTS), strict=True):
        assert sum(len(event.token_ids) for event in events) == 10, one


def route(model: UnifiedDecoder, one: Prompt) -> None:
    """Routers, layer by layer, that give text a large factor on images and images a small one on text, unlike in each
    head; what others look at is left to chance."""
    generator = torch.Generator().manual_seed(9)
    modalities = senses_of(one)
    for index, layer in enumerate(model.layers):
        attention = layer.attention
        assert isinstance(attention, RoutedAttention)
        routes_TM = torch.randn(len(modalities), len(MODALITIES), generator=generator) * 0.2
        routes_TM[modalities == MODALITIES.index("text"), MODALITIES.index("image")] = 1.0
        routes_TM[modalities == MODALITIES.index("image"), MODALITIES.index("text")] = -1.0
        routes_THM = routes_TM[:, None] * torch.tensor([0.2, 0.6, 1.0, 2.2])[:, None]
        x_TD = attended(model, one)[index]
        # Least squares, and small, so that no factor on another prompt is beyond what a float holds.
        solved_DE = torch.linalg.solve(x_TD.T @ x_TD + torch.eye(64), x_TD.T @ routes_THM.flatten(1))
        with torch.no_grad():
            attention.router.weight.copy_(solved_DE.T)  # type: ignore[union-attr]  # a Module's attributes have no types


def senses_of(one: Prompt) -> torch.Tensor:
    modalities = torch.zeros(len(one.token_ids), dtype=torch.int64)
    for span in one.spans:
        modalities[span.start : span.stop] = MODALITIES.index(span.modality)
    return modalities


def attended(model: UnifiedDecoder, one: Prompt) -> list[torch.Tensor]:
    """What each layer's attention reads in a dense pass over a prompt, [T, D]."""
    seen: list[torch.Tensor] = []
    hooks = [
        layer.attention.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))  # type: ignore[union-attr]  # a Module's attributes have no types
        for layer in model.layers
    ]
    reference(model, one, ())
    for hook in hooks:
        hook.remove()
    return seen


def slow_routing(model: UnifiedDecoder, one: Prompt, present: Sequence[str]) -> list[list[list[float]]]:
    """[layer][looking][seen]: each row's factors on each sense, means over heads and over the rows that look."""
    names = [MODALITIES[number] for number in senses_of(one).tolist()]
    layers = []
    for layer, x_TD in zip(model.layers, attended(model, one), strict=True):
        weight_HMD = layer.attention.router.weight.view(4, len(MODALITIES), 64)  # type: ignore[union-attr, operator]  # a Module's attributes have no types
        factors: dict[tuple[str, str], list[float]] = {}
        for x_D, looking in zip(x_TD, names, strict=True):
            for seen in present:
                heads = [float((x_D @ weight_D).exp()) for weight_D in weight_HMD[:, MODALITIES.index(seen)]]
                factors.setdefault((looking, seen), []).append(sum(heads) / 4)
        layers.append([[sum(factors[a, b]) / len(factors[a, b]) for b in present] for a in present])
    return layers


@pytest.mark.parametrize("budget", [1024, 13])
def test_routing_is_told_by_who_looks_and_what_is_seen(tmp_path: Path, budget: int) -> None:
    """Beside another request, which the same steps read, and again with the prompt in the cache."""
    one = prompt(7, image(0, 2, 3), 5, sound(1, 8), 4)
    made = make(**WHOLE)
    route(made, one)
    save_checkpoint(made, tmp_path / "m", dtype=torch.float32)
    engine = Engine.load(
        EngineOptions(
            model=str(tmp_path / "m"), block_size=4, kv_memory=4_000_000, max_batch_tokens=budget, max_num_seqs=8
        )
    )
    model = engine.runner.model
    assert isinstance(model, UnifiedDecoder)
    expected = torch.tensor(slow_routing(model, one, ["text", "image", "audio"]))
    for again in range(2):
        for name, other, inspect in (("beside", PROMPTS[3], False), ("asked", one, True), ("text", prompt(9), True)):
            engine.add(
                EngineRequest(
                    request_id=name,
                    prompt_token_ids=other.token_ids,
                    spans=other.spans,
                    media=other.media,
                    params=SamplingParams(temperature=0, max_tokens=3),
                    seed=0,
                    inspect=inspect,
                )
            )
        events: dict[str, list[TokensEvent]] = {"beside": [], "asked": [], "text": []}
        while engine.has_work:
            for event in engine.step():
                events[event.request_id].append(event)
        routing = events["asked"][0].routing
        assert routing is not None
        assert routing.senses == ["text", "image", "audio"]
        got = torch.tensor(routing.layers)
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
        assert (got[:, 0, 1] > 3).all(), "text looks at images"
        assert (got[:, 1, 0] < 0.5).all(), "images do not look at text"
        alone = events["text"][0].routing
        assert alone is not None
        assert alone.senses == ["text"]
        text = torch.tensor(slow_routing(model, prompt(9), ["text"]))
        torch.testing.assert_close(torch.tensor(alone.layers), text, atol=1e-3, rtol=1e-3)
        assert all(event.routing is None for event in events["beside"] + events["asked"][1:]), again


# Checkpoints


def test_what_is_written_is_what_is_read(folder: Path) -> None:
    model, again = make(**WHOLE), load_model(folder)
    assert again.config == dataclasses.replace(model.config, dtype="float32", eos_token_ids=(2,))
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_checkpoint_without_one_of_its_parts_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    for part in ("width_gate.score.bias", "adapters.audio.up", "label_head.bias", "stem.1.shift", "router"):
        target = tmp_path / part
        shutil.copytree(folder, target)
        tensors = load_file(target / "model.safetensors")
        kept = {name: value for name, value in tensors.items() if part not in name}
        assert len(kept) < len(tensors)
        save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=f"lacks the tensor.*{part}"):
            load_model(target)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"gate": {"layer": 1, "widths": [32, 64], "thresholds": [0.0]}}, "the last of them"),
        ({"gate": {"layer": 1, "widths": [64, 32, 128], "thresholds": [0.0, 0.0]}}, "ascending"),
        ({"gate": {"layer": 9, "widths": [64, 128], "thresholds": [0.0]}}, "layer=9"),
        ({"gate": {"layer": 1, "widths": [64, 128], "thresholds": []}}, "one finite threshold"),
        ({"gate": {"layer": 1, "widths": "all", "thresholds": []}}, "lists of numbers"),
        ({"gate": []}, "JSON object"),
        ({"gate": {"layer": 1, "widths": [64, 128], "thresholds": [0.0], "soft": True}}, "soft"),
        ({"adapter": {"layer": 4, "width": 8}}, "layer=4"),
        ({"adapter": {"layer": 1}}, "width"),
        ({"unrotated": 0}, "unrotated"),
        ({"unrotated": 9}, "unrotated"),
        ({"embedding_size": -1}, "embedding_size"),
        ({"labels": {"a": []}}, "empty"),
        ({"labels": {"a": ["x", "x"]}}, "twice"),
        ({"labels": ["x"]}, "object of lists"),
        ({"encoders": {"smell": {}}}, "convolutions"),
        ({"encoders": 3}, "object of encoders"),
        ({"widths": 3}, "widths"),
    ],
)
def test_configs_that_cannot_be_are_refused(folder: Path, changes: dict[str, Any], match: str) -> None:
    values = json.loads((folder / "config.json").read_text())
    with pytest.raises(ConfigError, match=match):
        parse(values | changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"convolutions": ()}, "at least one"),
        ({"convolutions": (ConvConfig(16, 3, 4),)}, "impossible"),
        ({"convolutions": (ConvConfig(16, 3, 2, residual=True),)}, "another shape"),
        ({"modality": "smell"}, "no known sense"),
        ({"activation": "relu6"}, "activation"),
        ({"rope_theta": 0.0}, "rope_theta"),
        ({"num_heads": 3}, "heads of a multiple of 4"),
    ],
)
def test_encoders_that_cannot_be_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        dataclasses.replace(SEES, **changes)


@pytest.mark.parametrize("layers", ["two", 1.5, -1, 1 << 40, True, [2]])
def test_a_number_of_layers_that_is_none_is_refused(layers: Any) -> None:
    with pytest.raises(ConfigError, match="num_layers"):
        StemConfig.parse("image", SEES.to_json() | {"num_layers": layers})


# Encoders


def test_inputs_are_encoded_together_as_alone() -> None:
    model = make(**WHOLE)
    for inputs in (
        [image(0, 2, 3), image(1, 4, 4), image(2, 2, 3), image(3, 16, 12)],
        [sound(0, 5), sound(1, 9), sound(2, 200)],
        [series(0, 3), series(1, 3)],
    ):
        encoder = model.encoder(inputs[0].modality)
        assert encoder is not None
        tensors = [torch.tensor(one.array()) for one in inputs]
        with torch.inference_mode():
            together = finished(encoder.encode(tensors))
            for one, tensor, output in zip(inputs, tensors, together, strict=True):
                encoder.check(one)
                (alone,) = finished(encoder.encode([tensor]))
                assert output.shape == (one.tokens, 64)
                torch.testing.assert_close(output, alone, atol=1e-5, rtol=0)


def test_statistics_of_training_become_scales_and_shifts() -> None:
    """What is served normalises over no batch, and gives what the trained stem gives."""
    encoder = make(**WHOLE).encoder("image")
    assert isinstance(encoder, StemEncoder)
    inputs = [torch.tensor(image(seed, 4, 4).array()) for seed in range(8)]
    encoder.normalise()
    encoder.train()
    for _ in range(3):
        finished(encoder.encode(inputs))
    encoder.eval()
    with torch.no_grad():
        for convolution in encoder.stem:
            assert isinstance(convolution, Convolution)
            assert convolution.statistics is not None
            convolution.statistics.weight.normal_()  # of both signs: a scale goes behind the pool
            convolution.statistics.bias.normal_()
        before = finished(encoder.encode(inputs))
        encoder.settle()
        after = finished(encoder.encode(inputs))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.modules())
    for first, second in zip(before, after, strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_an_encoder_takes_inputs_of_its_own_shape_only() -> None:
    encoder = make(**WHOLE).encoder("image")
    assert encoder is not None
    good = image(0, 2, 3)
    for shape, grid in (((3, 8, 12), (3, 2)), ((1, 8, 12), (2, 3)), ((3, 8), (2, 3)), ((3, 9, 12), (2, 3))):
        wrong = MediaInput("image", "x", shape, good.data, grid)
        with pytest.raises(InvalidRequestError, match="encoder takes"):
            encoder.check(wrong)
    many = MediaInput.of("image", torch.zeros(3, 400, 400).numpy(), (100, 100))
    with pytest.raises(InvalidRequestError, match="at most 4096 tokens"):
        encoder.check(many)
