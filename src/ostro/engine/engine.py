"""The engine: requests in, tokens out, a step at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import torch

from ostro.compression.on_load import OnLoad
from ostro.compression.schemes import scheme_of
from ostro.core.cpus import allowed_cpus, plan_cpus
from ostro.core.errors import ConfigError, InvalidRequestError, PromptTooLongError, QueueFullError
from ostro.core.events import (
    EventSink,
    RequestFinished,
    RequestPreempted,
    RequestQueued,
    RequestScheduled,
    StepFinished,
    discard,
)
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest, EngineStats, ModelCard, TokensEvent
from ostro.engine.block_manager import BlockManager
from ostro.engine.constraints import Grammars
from ostro.engine.counters import Counters
from ostro.engine.encodings import Encodings
from ostro.engine.kv_cache import CacheLayout, KVCache, pick_kv_dtype
from ostro.engine.plan import BatchPlan, RowResult
from ostro.engine.runner import Runner
from ostro.engine.scheduler import Scheduler
from ostro.engine.sequence import Sequence
from ostro.engine.sizing import size_cache
from ostro.kernels import dispatch
from ostro.models.layers.decoder import Decoder
from ostro.tokenizer import load_tokenizer
from ostro.weights.folder import open_folder
from ostro.weights.loader import Progress, load_model, open_model

# How long a step waits for a grammar to be compiled when there is nothing else to do.
_COMPILING_S = 0.02


class Engine:
    """Synchronous and single-threaded: `add`, `abort` and `step` are called from one thread.

    tokenizer_folder: where the tokenizer is that constrained answers need; None refuses them.
    """

    def __init__(
        self,
        model: Decoder,
        options: EngineOptions,
        *,
        sink: EventSink = discard,
        load_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        tokenizer_folder: Path | None = None,
    ) -> None:
        layout = CacheLayout.of(model.attention_specs(), options.block_size)
        kv_dtype = pick_kv_dtype(options, model.dtype, model.quantised)
        size = size_cache(options, model.config, layout, kv_dtype, model.device)
        self.options = options
        self.blocks = BlockManager(layout.windows, size.num_blocks, options.block_size, options.prefix_caching)
        encodings = Encodings(options.encoder_cache, model.config.hidden_size * model.dtype.itemsize)
        self.scheduler = Scheduler(options, self.blocks, encodings)
        cache = KVCache(layout, size.num_blocks, kv_dtype, model.device)
        self._grammars = _grammars(tokenizer_folder, model, options)
        self.runner = Runner(model, cache, options.max_num_seqs, options.max_batch_tokens, size.context, self._grammars)
        self.card = _card(model, options, size.context, size.num_blocks, load_seconds)
        self.counters = Counters()
        self._vocab_size = model.config.vocab_size
        self._sink = sink
        self._clock = clock
        self._sequences: dict[str, Sequence] = {}
        self._by_slot: dict[int, Sequence] = {}
        self._compiling: dict[str, futures.Future[None]] = {}
        self._deadlines = 0
        self._order = 0

    @classmethod
    def load(cls, options: EngineOptions, *, sink: EventSink = discard, progress: Progress | None = None) -> Engine:
        """Load `options.model` onto its device. Raises ConfigError, CheckpointError, ModelNotFoundError."""
        started = time.monotonic()
        # PyTorch counts hardware threads and knows no quotas; what a user told it to be fewer stays.
        most = len(plan_cpus(allowed_cpus()).compute)
        torch.set_num_threads(options.threads or min(torch.get_num_threads(), most))
        device = device_for(options)
        quantiser = None if options.quantize is None else OnLoad(scheme_of(options.quantize))
        dtype = pick_dtype(options, device)
        model = load_model(Path(options.model), device=device, dtype=dtype, quantiser=quantiser, progress=progress)
        seconds = time.monotonic() - started
        return cls(model, options, sink=sink, load_seconds=seconds, tokenizer_folder=Path(options.model))

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def add(self, request: EngineRequest) -> None:
        """Queue a request. Raises QueueFullError, InvalidRequestError, PromptTooLongError; nothing is kept then."""
        self.check(request)
        waiting = self.scheduler.num_waiting + len(self._compiling)
        if waiting >= self.options.max_waiting:
            raise QueueFullError(
                f"{waiting} requests are waiting already, which is the limit. Try again later.",
                retry_after=self.counters.drain_estimate(waiting),
            )
        if not self.holds_media(request):
            raise QueueFullError(
                f"The images and sounds of {len(self._sequences)} requests and this one take more than the "
                f"{self.options.media_memory} bytes that there are for them. Try again later.",
                retry_after=self.counters.drain_estimate(len(self._sequences)),
            )
        now = self._clock()
        self._order += 1
        groups = len(self.blocks.windows)
        sequence = Sequence(request, now, self.options.ageing_s, self._order, groups)
        self._sequences[request.request_id] = sequence
        self._deadlines += sequence.deadline is not None
        if request.params.constraint is None:
            self.scheduler.add(sequence)
        else:
            assert self._grammars is not None
            self._compiling[request.request_id] = self._grammars.compile(request.params.constraint)
        self._sink(RequestQueued(request.request_id, sequence.num_prompt, now))

    def holds_media(self, request: EngineRequest) -> bool:
        """Whether there is memory for its images and sounds beside those of others; alone it is always taken."""
        if not request.media or not self._sequences:
            return True
        inputs = [*request.media, *(one for held in self._sequences.values() for one in held.request.media)]
        return sum({one.digest: len(one.data) for one in inputs}.values()) <= self.options.media_memory

    def abort(self, request_id: str) -> None:
        """Cancel: the request's blocks are free when this returns. Unknown ids are ignored: it may just be done."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._finish(sequence, "abort")

    def step(self) -> list[TokensEvent]:
        """Plan, run, sample, apply: the new tokens of every sequence that got some."""
        started = time.perf_counter()
        events = self._expire() if self._deadlines else []
        if self._compiling:
            events += self._take_compiled()
        plan = self.scheduler.schedule()
        for sequence in self.scheduler.preemptions:
            self.counters.preemptions += 1
            self._sink(RequestPreempted(sequence.request.request_id, self._clock()))
        if not (plan.rows or plan.admissions or plan.forget or plan.encode_s):
            return events
        self._note_starts(plan)
        running = time.perf_counter()
        handle = self.runner.launch(plan)
        results = self.runner.collect(handle)
        ran = time.perf_counter() - running
        self._note_pace(plan, ran - handle.encode_s)
        for row, result in zip(plan.rows, results, strict=True):
            event = self._apply(self._by_slot[row.slot], len(row.token_ids), result)
            if event is not None:
                events.append(event)
        events += self._take_encoded(handle.encoded)
        total = time.perf_counter() - started
        self.counters.steps += 1
        self._sink(StepFinished(plan.num_tokens, len(plan.rows), total, total - ran))
        return events

    def _note_pace(self, plan: BatchPlan, seconds: float) -> None:
        # Rows of running streams come first; what is behind them is prefill.
        decoding = sum(self._by_slot[row.slot].decoding for row in plan.rows)
        prefilled = sum(len(row.token_ids) for row in plan.rows[decoding:])
        self.scheduler.pace.note(decoding, prefilled, seconds)

    def _take_encoded(self, encoded: dict[str, str]) -> list[TokensEvent]:
        """Let the sequences go on whose inputs are encoded; those whose inputs could not be end with an error."""
        self.scheduler.encodings.done(encoded)
        failed = []
        for digest, error in encoded.items():
            if error:
                self.scheduler.encodings.forget(digest)
                needing = self.scheduler.encodings.needing(digest, self.scheduler.running)
                failed += [self._fail(sequence, error, None) for sequence in needing]
        return failed

    def stats(self) -> EngineStats:
        return self.counters.snapshot(
            running=len(self.scheduler.running),
            waiting=self.scheduler.num_waiting + len(self._compiling),
            kv_usage=self.blocks.usage,
            kv_blocks=self.blocks.pools[0].capacity,
            media_queries=self.scheduler.encodings.queries,
            media_hits=self.scheduler.encodings.hits,
        )

    def clear_prefix_cache(self) -> None:
        """Forget cached prefixes, so that the next request computes its whole prompt."""
        self.blocks.clear()

    def check(self, request: EngineRequest) -> None:
        """Refuse what could not be served: InvalidRequestError or PromptTooLongError."""
        prompt = request.prompt_token_ids
        if not prompt:
            raise InvalidRequestError("The prompt is empty; at least one token is needed.", param="prompt")
        if min(prompt) < 0 or max(prompt) >= self._vocab_size:
            raise InvalidRequestError(
                f"The prompt holds a token id outside the vocabulary of {self._vocab_size}.", param="prompt"
            )
        for field in ("logit_bias", "stop_token_ids", "banned_token_ids"):
            if any(token >= self._vocab_size for token in getattr(request.params, field)):
                raise InvalidRequestError(
                    f"{field} names a token id outside the vocabulary of {self._vocab_size}.", param=field
                )
        if len(prompt) + (request.params.max_tokens or 1) > self.card.context:
            raise PromptTooLongError(len(prompt), request.params.max_tokens, self.card.context)
        if request.spans or request.media:
            self._check_media(request)
        if request.params.constraint is not None:
            self._check_constraint(request)
        if request.request_id in self._sequences:
            raise InvalidRequestError(f"A request with the id '{request.request_id}' is running.", param="request_id")

    def _check_media(self, request: EngineRequest) -> None:
        """Every span within the prompt and in order, every input whole, of a sense that the model has, and used."""
        inputs = {media.digest: media for media in request.media}
        used = dict.fromkeys(inputs, 0)
        at = 0
        for span in request.spans:
            media = inputs.get(span.digest)
            fits = media is not None and span.modality == media.modality and span.offset >= 0
            if not fits or not at <= span.start < span.stop <= len(request.prompt_token_ids):
                raise InvalidRequestError(
                    f"The prompt's span at token {span.start} is not one of an input of this request.", param="prompt"
                )
            assert media is not None
            if span.offset + span.length > media.tokens:
                raise InvalidRequestError(
                    f"The prompt has {span.offset + span.length} places for an {media.modality} of {media.tokens}.",
                    param="prompt",
                )
            at = span.stop
            used[span.digest] += 1
        for media in request.media:
            encoder = self.runner.model.encoder(media.modality)
            if encoder is None:
                raise InvalidRequestError(
                    f"The prompt holds an {media.modality}, which this model has no encoder for.",
                    param="prompt",
                    code="unsupported_content",
                )
            encoder.check(media)
            if not used[media.digest]:
                raise InvalidRequestError(f"The prompt has no place for its {media.modality}.", param="prompt")

    def _check_constraint(self, request: EngineRequest) -> None:
        if self._grammars is None:
            raise InvalidRequestError(
                "An answer can only be held to a format where the model has a tokenizer.", param="constraint"
            )
        if request.params.ignore_eos:
            raise InvalidRequestError(
                "ignore_eos cannot go together with a format: a finished answer has to end.", param="ignore_eos"
            )

    def compile(self, request: EngineRequest) -> None:
        """Wait until a constrained request's grammar is compiled. Raises InvalidRequestError for one that cannot be.

        For callers that want to know before anything runs; `add` itself never waits.
        """
        if request.params.constraint is not None and self._grammars is not None:
            self._grammars.compile(request.params.constraint).result()

    def _take_compiled(self) -> list[TokensEvent]:
        """Queue the requests whose grammars are ready; the others' owners are told what is wrong."""
        if not self.scheduler.running and not self.scheduler.num_waiting:
            futures.wait(self._compiling.values(), _COMPILING_S, futures.FIRST_COMPLETED)
        failed = []
        for request_id, compiling in list(self._compiling.items()):
            if not compiling.done():
                continue
            sequence = self._sequences[request_id]
            error = compiling.exception()
            if error is None:
                del self._compiling[request_id]
                self.scheduler.add(sequence)
                continue
            failed.append(self._fail(sequence, str(error), "constraint"))
        return failed

    def _fail(self, sequence: Sequence, error: str, param: str | None) -> TokensEvent:
        """End a sequence that cannot go on."""
        self._finish(sequence, "error")
        return TokensEvent(
            request_id=sequence.request.request_id, finish_reason="error", error=error, error_param=param
        )

    def _note_starts(self, plan: BatchPlan) -> None:
        """Who sits in which slot, and what the prefix cache gave those that start."""
        started = {admission.slot for admission in plan.admissions}
        if not started:
            return
        for sequence in self.scheduler.running:
            if sequence.slot not in started:
                continue
            self._by_slot[sequence.slot] = sequence
            if not sequence.was_scheduled:
                sequence.was_scheduled = True
                self.counters.prompt_tokens += sequence.num_prompt
                self.counters.prefix_queries += sequence.num_prompt
                self.counters.prefix_hits += sequence.cached
                self._sink(RequestScheduled(sequence.request.request_id, sequence.cached, self._clock()))

    def _apply(self, sequence: Sequence, ran: int, result: RowResult) -> TokensEvent | None:
        """Take over a row's tokens; returns what the request's owner is told, if anything."""
        drafts = len(sequence.drafts)
        new = result.token_ids
        sequence.computed += ran - drafts + max(0, len(new) - 1)
        self.counters.draft_tokens += drafts
        self.counters.accepted_tokens += max(0, len(new) - 1)
        if result.error:
            return self._fail(sequence, result.error, result.error_param)
        kept, reason = self._cut(sequence, new)
        if result.complete and len(kept) == len(new):
            reason = "stop"  # The answer's grammar allows nothing more: its end need not be sampled.
        sequence.tokens += kept
        # Drafts behind a stop were computed too, but are no tokens of this sequence.
        sequence.computed = min(sequence.computed, len(sequence.tokens))
        self.blocks.commit(sequence)
        if result.embedding is not None:
            self._finish(sequence, "stop")
            return _embedding_event(sequence, result.embedding)
        if not new:
            return None
        self.counters.generation_tokens += len(kept)
        event = TokensEvent(
            request_id=sequence.request.request_id,
            token_ids=kept,
            logprobs=result.logprobs[: len(kept)] if result.logprobs is not None else None,
            finish_reason=reason,
            cached_tokens=sequence.cached,
            # A sequence that gave way reads its prompt again, but its owner has been told.
            prompt_logprobs=result.prompt_logprobs if sequence.num_output == len(kept) else None,
            labels=result.labels if sequence.num_output == len(kept) else [],
            routing=result.routing if sequence.num_output == len(kept) else None,
        )
        if reason is not None:
            self._finish(sequence, reason)
        return event

    def _cut(self, sequence: Sequence, new: list[int]) -> tuple[list[int], str | None]:
        """The tokens up to the first that ends the sequence, and why it ends. A stop token itself is not kept."""
        params = sequence.request.params
        room = self.card.context - len(sequence.tokens)
        if params.max_tokens is not None:
            room = min(room, params.max_tokens - sequence.num_output)
        for index, token in enumerate(new):
            if token in sequence.stop_ids and sequence.num_output + index >= params.min_tokens:
                return new[:index], "stop"
            if index + 1 >= room:
                return new[: index + 1], "length"
        return new, None

    def _expire(self) -> list[TokensEvent]:
        """End what is past its deadline."""
        now = self._clock()
        late = [s for s in self._sequences.values() if s.deadline is not None and s.deadline <= now]
        for sequence in late:
            self._finish(sequence, "deadline")
        return [TokensEvent(request_id=s.request.request_id, finish_reason="deadline") for s in late]

    def _finish(self, sequence: Sequence, reason: str) -> None:
        if self._compiling.pop(sequence.request.request_id, None) is None:
            self.scheduler.remove(sequence)
        del self._sequences[sequence.request.request_id]
        self._deadlines -= sequence.deadline is not None
        now = self._clock()
        self.counters.finished(now)
        self._sink(RequestFinished(sequence.request.request_id, reason, sequence.num_prompt, sequence.num_output, now))


def _embedding_event(sequence: Sequence, embedding: bytes) -> TokensEvent:
    return TokensEvent(
        request_id=sequence.request.request_id,
        finish_reason="stop",
        cached_tokens=sequence.cached,
        embedding=embedding,
    )


def _grammars(tokenizer_folder: Path | None, model: Decoder, options: EngineOptions) -> Grammars | None:
    if tokenizer_folder is None:
        return None
    config = model.config
    # While one waits, those before it start and as many come in behind it.
    most = 2 * options.max_waiting + options.max_num_seqs
    return Grammars(lambda: load_tokenizer(tokenizer_folder), config.vocab_size, config.eos_token_ids, kept=most)


def pick_device(wanted: str) -> torch.device:
    """auto takes CUDA where there is one. Raises ConfigError for a device that is not there, or not known."""
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"The device is {wanted!r}; expected auto, cpu or cuda.", param="device")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device='cuda' was asked for, but PyTorch sees no CUDA device.", param="device")
    if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()):
        return torch.device("cuda")
    return torch.device("cpu")


def device_for(options: EngineOptions) -> torch.device:
    """`pick_device` for a model: auto takes the CPU for weights of 4 or 8 bits, which run nowhere else."""
    device = pick_device(options.device)
    if options.device != "auto" or device.type == "cpu":
        return device
    if options.quantize is not None:
        return torch.device("cpu")
    with open_model(Path(options.model)) as filling:
        return torch.device("cpu") if filling.quantised else device


def pick_dtype(options: EngineOptions, device: torch.device) -> torch.dtype | None:
    """The type to compute in; None keeps the checkpoint's. On a CPU float16 checkpoints become bfloat16, which its
    kernels know."""
    if options.dtype != "auto":
        if options.dtype == "float16" and device.type == "cpu":
            raise ConfigError("dtype='float16' is not supported on a CPU; use bfloat16 or float32.", param="dtype")
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[options.dtype]
    if options.quantize is not None:
        return None
    declared = open_folder(Path(options.model)).config.dtype
    return torch.bfloat16 if device.type == "cpu" and declared == "float16" else None


def _card(model: Decoder, options: EngineOptions, context: int, num_blocks: int, load_seconds: float) -> ModelCard:
    parameters, weight_bytes = model.size()
    return ModelCard(
        name=options.name or Path(options.model).name,
        architecture=model.config.architecture,
        parameters=parameters,
        weight_bytes=weight_bytes,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        context=context,
        kv_tokens=(num_blocks - 1) * options.block_size,
        load_seconds=load_seconds,
        kernels=dispatch.summary() if model.device.type == "cpu" else "PyTorch on CUDA",
        eos_token_ids=list(model.config.eos_token_ids),
        max_requests=options.max_num_seqs + options.max_waiting,
        modalities=list(model.encoders),
    )
