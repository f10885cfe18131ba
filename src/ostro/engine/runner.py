"""Runs plans: lays out the flat batch, runs the model, samples. One a rank; all it knows comes from plans."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import llguidance
import numpy as np
import torch

from ostro.core.media import MediaSpan
from ostro.core.request import LabelScore, Routing, TokenLogprobs
from ostro.core.sampling import SamplingParams
from ostro.engine.constraints import Grammars, MaskMaker, MaskRow, follow, forbid
from ostro.engine.encoding import EncoderRunner
from ostro.engine.kv_cache import KVCache
from ostro.engine.native_decoder import NativeDecoder
from ostro.engine.paged_context import Chunk, PagedContext
from ostro.engine.plan import Admission, BatchPlan, PlanRow, RowResult
from ostro.engine.reading import Pooled, PromptScores, Routes
from ostro.engine.sampler import NO_TOKEN, SampleRow, sample
from ostro.models.layers.decoder import Decoder

# Rows of a sequence up to this many attend one by one; more of them are worth gathering their keys for.
SHORT_ROW = 16


@dataclass
class _Slot:
    """What the runner remembers of the sequence in a slot."""

    params: SamplingParams
    seed: int
    stop_ids: list[int]
    history: list[int]
    num_prompt: int
    matcher: llguidance.LLMatcher | None = None
    scores: PromptScores | None = None
    pooled: Pooled | None = None
    spans: list[MediaSpan] = field(default_factory=list)
    routes: Routes | None = None


@dataclass(frozen=True)
class Masks:
    """Constrained rows, and which tokens they forbid, as soon as that is known."""

    rows: list[MaskRow]
    forbidden_MV: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class StepHandle:
    """A step that was launched: its sampled rows' logits are on the way, and their masks.

    embeddings: vectors of prompts that this step completes, by slot. labels, routing: of those prompts.
    encoded: digests of inputs that encoders have finished, with errors, empty where there is none.
    encode_s: seconds that they worked.
    """

    plan: BatchPlan
    logits_RV: torch.Tensor | None
    rows: list[SampleRow]
    masks: Masks | None = None
    embeddings: dict[int, bytes] = field(default_factory=dict)
    labels: dict[int, list[LabelScore]] = field(default_factory=dict)
    routing: dict[int, Routing] = field(default_factory=dict)
    encoded: dict[str, str] = field(default_factory=dict)
    encode_s: float = 0.0


_NO_NUMBERS = (
    "The model's output is not finite (NaN or infinity), so there is no next token. Its weights are damaged or its "
    "dtype is too narrow; try dtype='float32', or another checkpoint."
)


def _with_embedding(result: RowResult, embedding: bytes | None) -> RowResult:
    if embedding is not None and not np.isfinite(np.frombuffer(embedding, "<f4")).all():
        return RowResult([], error=_NO_NUMBERS)
    result.embedding = embedding
    return result


class Runner:
    """Buffers are allocated once, for the largest batch. `launch` starts a step, `collect` waits for its tokens.

    grammars: where the matchers of constrained sequences come from; None takes no such sequences.
    """

    def __init__(
        self,
        model: Decoder,
        cache: KVCache,
        max_seqs: int,
        max_tokens: int,
        max_len: int,
        grammars: Grammars | None = None,
    ) -> None:
        self.model = model
        self._grammars = grammars
        self.cache = cache
        self.device = model.device
        self._on_cpu = self.device.type == "cpu"
        model.lay_out()
        self._native = NativeDecoder.of(model, cache)
        self.encoders = EncoderRunner(model)
        self._masks = None if grammars is None else MaskMaker(model.config.vocab_size, on_cpu=self._on_cpu)
        self._block_size = cache.layout.block_size
        self._slots: dict[int, _Slot] = {}
        groups = len(cache.layout.groups)
        width = -(-max_len // self._block_size)
        # A step's tokens and drafts; drafts are within the budget, so this is the most.
        self._ids = np.zeros(max_tokens, dtype=np.int64)
        self._positions = np.zeros(max_tokens, dtype=np.int64)
        self._sequence = np.zeros(max_tokens, dtype=np.int32)
        self._tables = np.zeros((groups, max_seqs, width), dtype=np.int32)

    def launch(self, plan: BatchPlan) -> StepHandle:
        # How many threads OpenMP takes is a setting of each thread, which PyTorch makes when a thread first asks.
        torch.get_num_threads()
        for admission in plan.admissions:
            self._admit(admission)
        sampled, rows = self._lay_out(plan)
        masks = self._start_masks(plan)
        with torch.inference_mode():
            logits_RV, embeddings, labels, routing = None, {}, {}, {}
            if plan.rows:
                with self._watching(plan) as routes:
                    hidden_TD = self._forward(plan)
                routing = self._read_routes(plan, routes)
                embeddings = self._read_prompts(plan, hidden_TD)
                labels = self._read_labels(plan, hidden_TD)
                if sampled and len(sampled) != hidden_TD.shape[0]:
                    hidden_TD = hidden_TD[torch.tensor(sampled, device=self.device)]
                logits_RV = self.model.logits(hidden_TD) if sampled else None
            encoded, encode_s = self._encode(plan)
        return StepHandle(plan, logits_RV, rows, masks, embeddings, labels, routing, encoded, encode_s)

    def _encode(self, plan: BatchPlan) -> tuple[dict[str, str], float]:
        """Begin with inputs, let go of outputs, and work on what there is: what is finished, and seconds taken."""
        self.encoders.forget(plan.forget)
        self.encoders.start(plan.encode)
        if not plan.encode_s:
            return {}, 0.0
        self.encoders.wait()  # What the device is busy with already is not theirs.
        started = time.perf_counter()
        finished = self.encoders.advance(plan.encode_s)
        return finished, time.perf_counter() - started

    def collect(self, handle: StepHandle) -> list[RowResult]:
        """One result a plan row."""
        if handle.logits_RV is None:
            return [_with_embedding(RowResult([]), handle.embeddings.get(row.slot)) for row in handle.plan.rows]
        with torch.inference_mode():
            masks = handle.masks
            mask = None if masks is None else partial(forbid, rows=masks.rows, forbidden_MV=masks.forbidden_MV())
            tokens, logprobs = sample(handle.logits_RV, handle.rows, mask)
        results: list[RowResult] = []
        at = 0
        for row in handle.plan.rows:
            result = self._accept(row, tokens[at : at + row.sample], logprobs, at)
            result.labels = handle.labels.get(row.slot, [])
            result.routing = handle.routing.get(row.slot)
            results.append(_with_embedding(result, handle.embeddings.get(row.slot)))
            at += row.sample
        return results

    def _accept(self, row: PlanRow, tokens: list[int], logprobs: list[TokenLogprobs] | None, at: int) -> RowResult:
        """Keep sampled tokens as long as the draft that led to the next one was the token sampled there."""
        if not tokens:
            return RowResult([])
        drafts = row.token_ids[len(row.token_ids) - row.sample + 1 :]
        accepted = 0
        while accepted < len(drafts) and drafts[accepted] == tokens[accepted]:
            accepted += 1
        tokens = tokens[: accepted + 1]
        if NO_TOKEN in tokens:
            return RowResult([], error=_NO_NUMBERS)
        slot = self._slots[row.slot]
        complete = False
        if slot.matcher is not None:
            taken, error = follow(slot.matcher, tokens)
            if error:
                return RowResult([], error=error, error_param="constraint")
            assert taken, "a sequence whose grammar is at its end has ended"
            tokens = tokens[:taken]  # behind the grammar's end nothing was allowed, so what was sampled means nothing
            complete = slot.matcher.is_stopped()
        slot.history += tokens
        wanted = logprobs is not None and slot.params.logprobs is not None
        result = RowResult(tokens, logprobs[at : at + len(tokens)] if wanted and logprobs else None, complete)
        if slot.scores is not None:
            result.prompt_logprobs, slot.scores = slot.scores.entries(), None
        return result

    def _read_prompts(self, plan: BatchPlan, hidden_TD: torch.Tensor) -> dict[int, bytes]:
        """Let whoever wants more of a prompt than its next token read its rows."""
        embeddings: dict[int, bytes] = {}
        at = 0
        for row in plan.rows:
            slot = self._slots[row.slot]
            rows_TD = hidden_TD[at : at + len(row.token_ids)]
            at += len(row.token_ids)
            if slot.scores is not None and not slot.scores.complete:
                slot.scores.take(rows_TD, row.start, self.model.logits)
            if slot.pooled is not None:
                vector = slot.pooled.take(rows_TD, row.start)
                if vector is not None:
                    embeddings[row.slot] = vector
        return embeddings

    def _read_labels(self, plan: BatchPlan, hidden_TD: torch.Tensor) -> dict[int, list[LabelScore]]:
        """What the model's head for labels says where a prompt ends, in the same pass that gives its first token."""
        labels: dict[int, list[LabelScore]] = {}
        at = 0
        for row in plan.rows:
            at += len(row.token_ids)
            slot = self._slots[row.slot]
            if row.sample and row.start + len(row.token_ids) - row.sample + 1 == slot.num_prompt:
                labels[row.slot] = self.model.label_scores(hidden_TD[at - row.sample])
        return labels

    def _watching(self, plan: BatchPlan) -> AbstractContextManager[list[torch.Tensor]]:
        wanted = any(self._slots[row.slot].routes is not None for row in plan.rows)
        return self.model.watching_routes() if wanted else nullcontext([])

    def _read_routes(self, plan: BatchPlan, routes: list[torch.Tensor]) -> dict[int, Routing]:
        """How attention was routed, for prompts whose end this step reads."""
        if not routes:
            return {}
        routes_LTM = torch.stack(routes)
        senses_T = self._senses(plan)
        if senses_T is None:
            senses_T = torch.zeros(plan.num_tokens, dtype=torch.int64, device=self.device)
        found: dict[int, Routing] = {}
        at = 0
        for row in plan.rows:
            end = at + len(row.token_ids)
            slot = self._slots[row.slot]
            if slot.routes is not None:
                routing = slot.routes.take(routes_LTM[:, at:end], senses_T[at:end], row.start)
                if routing is not None:
                    found[row.slot], slot.routes = routing, None
            at = end
        return found

    def _start_masks(self, plan: BatchPlan) -> Masks | None:
        rows: list[MaskRow] = []
        at = 0
        for row in plan.rows:
            matcher = self._slots[row.slot].matcher
            if row.sample and matcher is not None:
                rows.append(MaskRow(matcher, at, row.token_ids[len(row.token_ids) - row.sample + 1 :]))
            at += row.sample
        if not rows:
            return None
        assert self._masks is not None
        return Masks(rows, self._masks.start(rows))

    def _admit(self, admission: Admission) -> None:
        matcher = None
        if admission.params.constraint is not None:
            assert self._grammars is not None, "the engine checks"
            matcher = self._grammars.matcher(admission.params.constraint)
            # A sequence that gave way and comes back has an answer already.
            follow(matcher, admission.tokens[admission.num_prompt :])
        params, prompt = admission.params, admission.tokens[: admission.num_prompt]
        scores = None if params.prompt_logprobs is None else PromptScores(prompt, params.prompt_logprobs)
        pooled = (
            None if admission.pooling is None else Pooled(admission.pooling, admission.num_prompt, self.model.pooled)
        )
        self._slots[admission.slot] = _Slot(
            admission.params,
            admission.seed,
            admission.stop_token_ids,
            list(admission.tokens),
            admission.num_prompt,
            matcher,
            scores,
            pooled,
            admission.spans,
            Routes(self.model.senses, admission.num_prompt) if admission.inspect and self.model.senses else None,
        )

    def _lay_out(self, plan: BatchPlan) -> tuple[list[int], list[SampleRow]]:
        """Fill the buffers; returns the flat indices to sample and how."""
        sampled: list[int] = []
        rows: list[SampleRow] = []
        at = 0
        for row in plan.rows:
            count = len(row.token_ids)
            end = at + count
            self._ids[at:end] = row.token_ids
            self._positions[at:end] = range(row.start, row.start + count) if count > 1 else row.start
            self._sequence[at:end] = row.slot
            if row.tables is not None:
                for group, table in enumerate(row.tables):
                    self._tables[group, row.slot, : len(table)] = table
            if row.sample:
                sampled += range(end - row.sample, end)
                rows += self._sample_rows(row)
            at = end
        return sampled, rows

    def _sample_rows(self, row: PlanRow) -> list[SampleRow]:
        slot = self._slots[row.slot]
        first = row.start + len(row.token_ids) - row.sample + 1
        drafts = row.token_ids[len(row.token_ids) - row.sample + 1 :]
        rows: list[SampleRow] = []
        for index in range(row.sample):
            early = slot.params.min_tokens > len(slot.history) + index - slot.num_prompt
            rows.append(
                SampleRow(
                    slot.params,
                    slot.seed,
                    first + index,
                    slot.history + drafts[:index] if slot.params.penalised else [],
                    slot.num_prompt,
                    slot.stop_ids if early else [],
                )
            )
        return rows

    def _forward(self, plan: BatchPlan) -> torch.Tensor:
        total = plan.num_tokens
        short_rows, chunks = self._split(plan)
        positions, sequence = self._positions[:total], self._sequence[:total]
        blocks = positions // self._block_size
        offsets = positions - blocks * self._block_size
        slots = [
            self._to_device(table[sequence, blocks].astype(np.int64) * self._block_size + offsets)
            for table in self._tables
        ]
        # Only as wide as the longest sequence of the batch: devices without a native kernel gather all of it.
        width = int(blocks[:short_rows].max()) + 1 if short_rows else 0
        tables = [self._to_device(table if self._on_cpu else table[:, :width]) for table in self._tables]
        positions_T = self._to_device(positions)
        senses_T = self._senses(plan)
        context = PagedContext(
            self.cache, positions_T, self._to_device(sequence), slots, tables, short_rows, chunks, senses_T
        )
        ids_T = self._to_device(self._ids[:total])
        hidden_TD: torch.Tensor = (self._native or self.model)(self._with_media(plan, ids_T), positions_T, context)
        return hidden_TD

    def _senses(self, plan: BatchPlan) -> torch.Tensor | None:
        """What each row is of, for models whose layers want to know; None where all of it is text."""
        if not self.model.senses or not any(self._slots[row.slot].spans for row in plan.rows):
            return None
        numbers = np.zeros(plan.num_tokens, dtype=np.int64)
        for at, end, span, _ in self._due(plan):
            numbers[at:end] = self.model.senses.index(span.modality)
        return self._to_device(numbers)

    def _due(self, plan: BatchPlan) -> Iterator[tuple[int, int, MediaSpan, int]]:
        """Rows [begin, end) of the flat batch that stand for media: of which span, and from which row of its output."""
        at = 0
        for row in plan.rows:
            stop = row.start + len(row.token_ids)
            spans = self._slots[row.slot].spans
            for span in spans[bisect_right(spans, row.start, key=lambda one: one.stop) :]:
                if span.start >= stop:
                    break
                begin, end = max(span.start, row.start), min(span.stop, stop)
                yield at + begin - row.start, at + end - row.start, span, span.offset + begin - span.start
            at += len(row.token_ids)

    def _with_media(self, plan: BatchPlan, ids_T: torch.Tensor) -> torch.Tensor:
        """The token ids, or their embeddings [T, D] with what encoders made in its places where some of it is due."""
        x_TD: torch.Tensor | None = None
        for at, end, span, first in self._due(plan):
            if x_TD is None:
                x_TD = self.model.embed(ids_T, self.model.dtype)
            x_TD[at:end] = self.encoders.rows(span.digest, first, first + end - at)
        return ids_T if x_TD is None else x_TD

    def _split(self, plan: BatchPlan) -> tuple[int, list[Chunk]]:
        """Leading rows that attend one by one, and the chunks after them."""
        short_rows, at = 0, 0
        chunks: list[Chunk] = []
        for row in plan.rows:
            count = len(row.token_ids)
            if count <= SHORT_ROW and not chunks:
                short_rows += count
            else:
                width = -(-(row.start + count) // self._block_size)
                blocks = [self._to_device(table[row.slot, :width]) for table in self._tables]
                chunks.append(Chunk(at, at + count, row.start, blocks))
            at += count
        return short_rows, chunks

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self._on_cpu else tensor.to(self.device, non_blocking=True)
