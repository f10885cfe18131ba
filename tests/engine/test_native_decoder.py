"""All layers in one native call give the model's own numbers, bit by bit, in every kind of batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ostro.core.expand import expand
from ostro.core.options import EngineOptions
from ostro.core.request import TokensEvent
from ostro.core.sampling import SamplingParams
from ostro.engine.engine import Engine
from ostro.engine.native_decoder import NativeDecoder
from ostro.kernels.dispatch import native
from ostro.kernels.packed_linear.layout import Codes, Scheme, pack
from ostro.models.config import DecoderConfig, QueryScaling, YarnConfig
from ostro.models.layers.decoder import Decoder
from ostro.models.layers.linear import Linear

PLAIN = DecoderConfig(
    architecture="mistral",
    vocab_size=96,
    hidden_size=64,
    intermediate_size=96,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    rms_norm_eps=1e-5,
    rope_theta=10_000.0,
    max_position_embeddings=256,
    windows=(0, 0, 0),
    tie_word_embeddings=False,
)
CONFIGS = {
    "plain": PLAIN,
    "tied": dataclasses.replace(PLAIN, tie_word_embeddings=True),
    "windows": dataclasses.replace(PLAIN, windows=(0, 20, 20), head_dim=24),
    "yarn": dataclasses.replace(
        PLAIN, yarn=YarnConfig(8.0, 32, mscale=1.0, mscale_all_dim=1.0), query_scaling=QueryScaling(0.1, 32)
    ),
}
SCHEMES = {"int4": Scheme(4, 32), "int4 shifted": Scheme(4, 32, shifted=True), "int8": Scheme(8, 0)}

pytestmark = pytest.mark.skipif(native is None, reason="no native module")


def random_codes(outputs: int, inputs: int, scheme: Scheme, generator: torch.Generator) -> Codes:
    groups = scheme.groups(inputs)
    size = 0.3 * inputs**-0.5 * 16 / 2**scheme.bits
    scales = (torch.rand(outputs, groups, generator=generator) * size).half()
    codes = torch.randint(0, 2**scheme.bits, (outputs, inputs), dtype=torch.uint8, generator=generator)
    shifts = -scales * 2 ** (scheme.bits - 1) if scheme.shifted else None
    return Codes(scheme, codes, scales, shifts)


def quantised(config: DecoderConfig, scheme: Scheme) -> Decoder:
    """A random model all of whose linear layers hold codes."""
    generator = torch.Generator().manual_seed(5)
    model = Decoder(config).requires_grad_(False)
    for module in model.modules():
        if isinstance(module, Linear):
            sizes = {name: stop - start for name, (start, stop) in module.slices.items()}
            module.quantise(
                {n: pack(random_codes(size, module.in_features, scheme, generator)) for n, size in sizes.items()}
            )
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.uniform_(0.5, 1.5, generator=generator)
        else:
            parameter.normal_(std=0.5, generator=generator)
    return model.eval()


def answers(model: Decoder, *, natively: bool, **options: object) -> dict[str, list[tuple[int, float]]]:
    """Tokens and their log-probabilities of requests of all lengths that come and go."""
    chosen = {"kv_memory": 400_000, "max_num_seqs": 4, "max_batch_tokens": 24, "block_size": 8, **options}
    engine = Engine(model, EngineOptions(model="random", **chosen))  # type: ignore[arg-type]  # any options
    assert isinstance(engine.runner._native, NativeDecoder)
    if not natively:
        engine.runner._native = None
    params = SamplingParams(temperature=0.7, max_tokens=14, logprobs=0, ignore_eos=True, seed=3)
    generator = torch.Generator().manual_seed(1)
    out: dict[str, list[tuple[int, float]]] = {}

    def take(events: list[TokensEvent]) -> None:
        for event in events:
            assert event.logprobs is not None
            entries = [(entry.token_id, entry.logprob) for entry in event.logprobs]
            out.setdefault(event.request_id, []).extend(entries)

    for number, length in enumerate((1, 40, 3, 17, 60, 8)):
        prompt = torch.randint(3, 90, (length,), generator=generator).tolist()
        for request in expand(f"r{number}", prompt, params, eos_ids=(), context=engine.card.context):
            engine.add(request)
        take(engine.step())
    while engine.has_work:
        take(engine.step())
    return out


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("config", CONFIGS)
def test_the_numbers_are_the_models_own(config: str, scheme: str) -> None:
    model = quantised(CONFIGS[config], SCHEMES[scheme])
    expected = answers(model, natively=False)
    assert len(expected) == 6
    assert all(len(tokens) == 14 for tokens in expected.values())
    assert answers(model, natively=True) == expected


@pytest.mark.parametrize("options", [{"kv_dtype": "int8"}, {"kv_dtype": "float32"}, {"speculate": 3}])
def test_with_other_caches_and_drafts(options: dict[str, object]) -> None:
    model = quantised(PLAIN, SCHEMES["int4"])
    assert answers(model, natively=True, **options) == answers(model, natively=False, **options)


def test_what_native_code_does_not_know_runs_operation_by_operation() -> None:
    model = quantised(PLAIN, SCHEMES["int8"])
    options = EngineOptions(model="random", kv_memory=200_000)
    assert Engine(model, options).runner._native is not None
    layer = model.layers[1].feed_forward.down  # type: ignore[union-attr]  # a Module's attributes have no types
    layer.quantise({"": layer.part(None)})  # type: ignore[operator, union-attr]  # one dense matrix among them
    engine = Engine(model, options)
    assert engine.runner._native is None
    (request,) = expand("r", [5, 6, 7], SamplingParams(max_tokens=3), eos_ids=(), context=100)
    engine.add(request)
    while engine.has_work:
        engine.step()
    dense = Decoder(PLAIN).requires_grad_(False)
    assert Engine(dense, options).runner._native is None
