"""The scheduler and the block manager under random arrivals, cancellations, preemptions, speculation and media.

The runner is replaced by one that keeps, per block, which tokens were written there, and that checks at every step
that each position a query can see holds exactly its sequence's token: a block leaked, shared wrongly or given away
too early shows as a wrong token. Its encoder takes some steps, and a position that an image stands for is only right
with that image's row in it. What it "samples" is a function of the visible tokens, so that any schedule must
give the same output.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ostro.core.media import MediaInput, MediaSpan
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest
from ostro.core.sampling import SamplingParams
from ostro.engine.engine import Engine
from ostro.engine.kv_cache import CacheLayout
from ostro.engine.plan import BatchPlan, PlanRow, RowResult
from ostro.engine.runner import StepHandle
from ostro.models.config import DecoderConfig
from ostro.models.layers.decoder import Decoder
from ostro.models.layers.encoder import Encoder, Work

BLOCK = 4
VOCABULARY = 5
CONTEXT = 64
# Images of one to nine tokens, some of the same size.
IMAGES = [
    MediaInput.of("image", np.full((1, 1), index, np.float32), (1, tokens))
    for index, tokens in enumerate([1, 2, 3, 3, 5, 9])
]
# A cell of the cache: a token, or a row of an image.
Cell = tuple[int, str, int]


def cells(tokens: Sequence[int], spans: Sequence[MediaSpan]) -> list[Cell]:
    found: list[Cell] = [(token, "", 0) for token in tokens]
    for span in spans:
        for index in range(span.length):
            found[span.start + index] = (tokens[span.start + index], span.digest, span.offset + index)
    return found


def next_token(visible: list[int]) -> int:
    """A short-sighted "model": few outcomes, so that prompts repeat and drafts are often right."""
    return (2 * visible[-1] + 1) % VOCABULARY


@dataclass
class MemoryRunner:
    """Stands in for the model: memory instead of keys and values."""

    layout: CacheLayout
    budget: int
    slots: int
    model: Decoder
    memory: dict[tuple[int, int, int], Cell] = field(default_factory=dict)
    tables: dict[int, list[list[int]]] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=dict)
    spans: dict[int, list[MediaSpan]] = field(default_factory=dict)
    # Steps that inputs have still to be encoded for, and those whose rows are there.
    encoding: dict[str, int] = field(default_factory=dict)
    encoded: set[str] = field(default_factory=set)

    def launch(self, plan: BatchPlan) -> StepHandle:
        assert plan.num_tokens <= self.budget
        assert len({row.slot for row in plan.rows}) == len(plan.rows) <= self.slots
        for admission in plan.admissions:
            self.tokens[admission.slot] = list(admission.tokens)
            self.spans[admission.slot] = list(admission.spans)
        return StepHandle(plan, None, [], encoded=self._encode(plan))

    def _encode(self, plan: BatchPlan) -> dict[str, str]:
        for digest in plan.forget:
            assert digest in self.encoded or digest in self.encoding
            self.encoded.discard(digest)
            self.encoding.pop(digest, None)
        for media in plan.encode:
            assert media.digest not in self.encoded
            assert media.digest not in self.encoding
            self.encoding[media.digest] = media.tokens % 3 + 1
        assert bool(self.encoding) == bool(plan.encode_s)
        done = [digest for digest, steps in self.encoding.items() if steps == 1]
        self.encoding = {digest: steps - 1 for digest, steps in self.encoding.items() if steps > 1}
        self.encoded |= set(done)
        return dict.fromkeys(done, "")

    def collect(self, handle: StepHandle) -> list[RowResult]:
        plan = handle.plan
        # All rows of a step write before any row reads, as a batched forward pass does layer by layer.
        for row in plan.rows:
            if row.tables is not None:
                self.tables[row.slot] = row.tables
            for offset, token in enumerate(row.token_ids):
                self._write(row, row.start + offset, token)
        return [self._sample(row) for row in plan.rows]

    def _write(self, row: PlanRow, position: int, token: int) -> None:
        for group, table in enumerate(self.tables[row.slot]):
            block = table[position // BLOCK]
            assert block != 0, "the null block is never written"
            cell: Cell = (token, "", 0)
            for span in self.spans[row.slot]:
                if span.start <= position < span.stop:
                    assert span.digest in self.encoded, "an image is read when it is encoded"
                    cell = (token, span.digest, span.offset + position - span.start)
            self.memory[group, block, position % BLOCK] = cell

    def _sample(self, row: PlanRow) -> RowResult:
        known = self.tokens[row.slot]
        drafts = row.token_ids[len(row.token_ids) - row.sample + 1 :] if row.sample else []
        tokens = known + drafts
        assert tokens[row.start : row.start + len(row.token_ids)] == row.token_ids
        for position in range(row.start, row.start + len(row.token_ids)):
            self._check_visible(row, position, tokens)
        if not row.sample:
            return RowResult([])
        new: list[int] = []
        for index in range(row.sample):
            new.append(next_token(known + drafts[:index]))
            if index < len(drafts) and drafts[index] != new[-1]:
                break
        known += new
        return RowResult(new)

    def _check_visible(self, row: PlanRow, position: int, tokens: list[int]) -> None:
        expected = cells(tokens, self.spans[row.slot])
        for group, table in enumerate(self.tables[row.slot]):
            window = self.layout.windows[group]
            for seen in range(max(0, position - window + 1) if window else 0, position + 1):
                key = (group, table[seen // BLOCK], seen % BLOCK)
                assert self.memory.get(key) == expected[seen], f"slot {row.slot} position {position} sees {seen} wrong"


class NoEncoder(Encoder):
    """Takes everything; the runner does its work."""

    def check(self, media: MediaInput) -> None: ...

    def encode(self, inputs: Sequence[torch.Tensor]) -> Work[list[torch.Tensor]]:
        raise NotImplementedError


class Eye:
    modality = "image"

    def build(self, hidden_size: int) -> Encoder:
        return NoEncoder()


def model(windows: tuple[int, ...]) -> Decoder:
    config = DecoderConfig(
        architecture="mistral",
        vocab_size=VOCABULARY,
        hidden_size=4,
        intermediate_size=4,
        num_layers=len(windows),
        num_heads=1,
        num_kv_heads=1,
        head_dim=4,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        max_position_embeddings=CONTEXT,
        windows=windows,
        encoders=(Eye(),),
    )
    return Decoder(config)


def expected(request: EngineRequest) -> list[int]:
    tokens = list(request.prompt_token_ids)
    most = min(request.params.max_tokens or CONTEXT, CONTEXT - len(tokens))
    out: list[int] = []
    while len(out) < most:
        token = next_token(tokens + out)
        if token in request.stop_token_ids:
            break
        out.append(token)
    return out


# Prompts share beginnings, as conversations do: whole random lists would never hit the prefix cache.
BEGINNINGS = tuple([first, *[1, 2, 3, 4, 0, 0, 2] * 5] for first in range(VOCABULARY))


def make_plan(seed: int, length: int) -> list[Any]:
    """A random walk of submissions, cancellations and steps. Drawn by seed: lists that hypothesis grows itself stay
    too short for a cache to fill."""
    rng = random.Random(seed)
    plan: list[Any] = []
    for _ in range(length):
        kind = rng.random()
        if kind < 0.45:
            beginning = rng.choice(BEGINNINGS)[: rng.randrange(36)]
            plan.append(
                {
                    "prompt": beginning + rng.choices(range(VOCABULARY), k=rng.randint(1, 8)),
                    "max_tokens": rng.randint(1, 20),
                    "priority": rng.randint(-2, 2),
                    "salt": rng.choice(["", "", "tenant"]),
                    "stop": rng.choice([[], [], [3], [2]]),
                    "group": rng.choice([None, None, "g1", "g2"]),
                    # Where in the prompt it begins, and which.
                    "images": [(rng.random(), one) for one in rng.choices(IMAGES, k=rng.choice([0, 0, 1, 1, 2]))],
                }
            )
        elif kind < 0.55:
            plan.append(("abort", rng.randrange(length)))
        else:
            plan.append("step")
    return plan


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    length=st.integers(1, 90),
    windows=st.sampled_from([(0,), (6,), (0, 6, 6), (9, 0)]),
    spare=st.integers(0, 12),
    slots=st.integers(1, 5),
    budget=st.integers(5, 40),
    speculate=st.sampled_from([0, 0, 3]),
    caching=st.sampled_from([True, True, False]),
    encoder_cache=st.sampled_from([0, 4, 9, 1000]),
)
def test_no_block_is_leaked_or_shared_wrongly(
    seed: int,
    length: int,
    windows: tuple[int, ...],
    spare: int,
    slots: int,
    budget: int,
    speculate: int,
    caching: bool,
    encoder_cache: int,
) -> None:
    """encoder_cache: in tokens."""
    engine = make_engine(windows, spare, slots, budget, speculate, caching, encoder_cache)
    runner = engine.runner
    assert isinstance(runner, MemoryRunner)
    outputs: dict[str, list[int]] = {}
    submitted: dict[str, EngineRequest] = {}
    aborted: set[str] = set()
    done: dict[str, str] = {}

    def step() -> None:
        for event in engine.step():
            assert event.request_id not in aborted
            assert event.request_id not in done
            outputs[event.request_id] += event.token_ids
            if event.finish_reason:
                done[event.request_id] = event.finish_reason
        engine.blocks.check(list(engine._sequences.values()))
        held = [one.tokens for one in IMAGES if one.digest in runner.encoded or one.digest in runner.encoding]
        assert sum(held) <= encoder_cache + slots * 9
        assert len(engine.scheduler.running) + engine.scheduler.num_waiting == len(engine._sequences)

    for action in make_plan(seed, length):
        if action == "step":
            step()
        elif isinstance(action, tuple):
            name = f"r{action[1]}"
            if name in submitted and name not in done:
                engine.abort(name)
                aborted.add(name)
                engine.blocks.check(list(engine._sequences.values()))
        else:
            name = f"r{len(submitted)}"
            room = CONTEXT - len(action["prompt"])
            submitted[name] = EngineRequest(
                request_id=name,
                prompt_token_ids=action["prompt"],
                params=SamplingParams(temperature=0, max_tokens=min(action["max_tokens"], room)),
                seed=0,
                stop_token_ids=action["stop"],
                priority=action["priority"],
                salt=action["salt"],
                group=action["group"],
                **placed(action["images"], action["prompt"]),
            )
            outputs[name] = []
            engine.add(submitted[name])
    for _ in range(3000):
        if not engine.has_work:
            break
        step()
    assert not engine.has_work, "every request ends"
    engine.blocks.check([])
    for name, request in submitted.items():
        if name not in aborted:
            assert outputs[name] == expected(request)
            assert done[name] in ("stop", "length")


def placed(images: list[tuple[float, MediaInput]], prompt: list[int]) -> dict[str, Any]:
    """Spans for images in a prompt, those that fit; the later rows of an image may be apart from its first."""
    spans: list[MediaSpan] = []
    used: dict[str, MediaInput] = {}
    at = 0
    for where, image in sorted(images, key=lambda one: one[0]):
        start = max(at, int(where * len(prompt)))
        if start + image.tokens + 1 > len(prompt):
            continue
        first = (image.tokens + 1) // 2
        spans.append(MediaSpan(start, first, image.digest, "image"))
        if image.tokens > first:
            spans.append(MediaSpan(start + first + 1, image.tokens - first, image.digest, "image", first))
        at = spans[-1].stop
        used[image.digest] = image
    return {"spans": spans, "media": list(used.values())}


def test_cancelled_requests_do_not_pile_up_behind_full_slots() -> None:
    engine = make_engine((0,), spare=8, slots=1, budget=8, speculate=0, caching=False)
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    engine.add(EngineRequest(request_id="runs", prompt_token_ids=[1, 2, 3], params=params, seed=0))
    engine.step()
    for i in range(1000):
        engine.add(EngineRequest(request_id=f"r{i}", prompt_token_ids=[1] * 10, params=params, seed=0))
        engine.abort(f"r{i}")
    assert engine.scheduler.num_waiting == 0
    assert len(engine.scheduler._waiting) < 100
    engine.add(EngineRequest(request_id="waits", prompt_token_ids=[1, 2], params=params, seed=0))
    engine.abort("runs")
    assert "waits" in {event.request_id for event in engine.step()}


def make_engine(
    windows: tuple[int, ...],
    spare: int,
    slots: int,
    budget: int,
    speculate: int,
    caching: bool,
    encoder_cache: int = 1000,
) -> Engine:
    """An engine whose cache holds one sequence of full length and `spare` blocks more."""
    decoder = model(windows)
    layout = CacheLayout.of(decoder.attention_specs(), BLOCK)
    options = EngineOptions(
        model="random",
        block_size=BLOCK,
        kv_memory=(CONTEXT // BLOCK + spare) * layout.block_bytes(torch.float32),
        max_num_seqs=slots,
        max_batch_tokens=max(budget, slots),
        speculate=speculate,
        prefix_caching=caching,
        encoder_cache=encoder_cache * 4 * decoder.config.hidden_size,
    )
    engine = Engine(decoder, options)
    engine.runner = MemoryRunner(layout, options.max_batch_tokens, slots, decoder)  # type: ignore[assignment]  # a stand-in
    return engine
