"""The offline face: prompts in, answers out, batched, in this process."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import unquote, urlsplit

import numpy as np

from ostro.core.errors import InvalidRequestError, OstroError, TokenizerError
from ostro.core.expand import expand
from ostro.core.ids import new_id
from ostro.core.media import Prompt as RenderedPrompt
from ostro.core.options import Device, DType, EngineOptions
from ostro.core.request import EngineRequest, LabelScore, TokenLogprobs, TokensEvent, ToolCall, Usage
from ostro.core.sampling import SamplingParams
from ostro.engine.engine import Engine
from ostro.media.inline import split_inline
from ostro.media.parts import MediaSource, find_sources, put_back, read_source
from ostro.media.senses import read_senses
from ostro.tokenizer import load_tokenizer
from ostro.tokenizer.answers import CallArguments, CallStart, Part, Reasoning, Text
from ostro.tokenizer.base import Tokenizer
from ostro.tokenizer.parser import AnswerParser, PlainParser
from ostro.weights.resolve import resolve_model

Prompt = str | Sequence[int] | RenderedPrompt
Message = Mapping[str, Any]
Reader = AnswerParser | PlainParser

_NO_ANSWER = SamplingParams(max_tokens=1)


@dataclass
class Completion:
    """One answer. finish_reason: "stop", "length" or, of a chat, "tool_calls".

    logprobs: one entry a token, where they were asked for. reasoning, tool_calls: what a chat's answer holds beside its
    text.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: str = ""


@dataclass
class RequestOutput:
    """The answer to one prompt; with `n` > 1 all of them in `completions`, the first in the other fields.

    prompt_logprobs: one entry a prompt token, None for the first, where they were asked for.
    labels: what the model's head for labels says of the prompt, the most probable first; none where it has none.
    """

    prompt_token_ids: list[int]
    completions: list[Completion]
    usage: Usage
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    labels: list[LabelScore] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.completions[0].text

    @property
    def token_ids(self) -> list[int]:
        return self.completions[0].token_ids

    @property
    def logprobs(self) -> list[TokenLogprobs] | None:
        return self.completions[0].logprobs

    @property
    def finish_reason(self) -> str:
        return self.completions[0].finish_reason

    @property
    def reasoning(self) -> str:
        return self.completions[0].reasoning

    @property
    def tool_calls(self) -> list[ToolCall]:
        return self.completions[0].tool_calls


class LLM:
    """A loaded model. model: a checkpoint folder, or a name that `ostro models` lists.

    Other keyword arguments are those of `EngineOptions`. A folder without a tokenizer takes token ids only.
    Raises ModelNotFoundError, ConfigError, CheckpointError, TokenizerError.

    >>> llm = LLM("ostro-nano")                                       # doctest: +SKIP
    >>> llm.generate("To be, or", SamplingParams(max_tokens=8))[0].text   # doctest: +SKIP
    """

    def __init__(self, model: str | Path, device: Device = "auto", dtype: DType = "auto", **options: Any) -> None:
        folder = resolve_model(str(model))
        self.tokenizer: Tokenizer | None = load_tokenizer(folder)
        self._senses = read_senses(folder)
        self.engine = Engine.load(
            EngineOptions(model=str(folder), name=str(model), device=device, dtype=dtype, **options)
        )
        self._boxes: dict[str, _Box] = {}
        self._eos_ids = set(self.engine.card.eos_token_ids)
        if self.tokenizer is not None:
            self._eos_ids |= set(self.tokenizer.eos_ids)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
    ) -> list[RequestOutput]:
        """Complete prompts (texts, token ids, rendered ones, or a mix), all in one batch; answers come in their order.

        params: one for all prompts, or one each. progress: a bar; None shows one on a terminal.
        Raises InvalidRequestError and PromptTooLongError before anything runs.
        """
        listed = _as_list(prompts)
        each = _one_each(params, len(listed))
        encoded = [self._encode(prompt) for prompt in listed]
        return self._run(encoded, each, progress, [self._plain] * len(encoded))

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        reasoning_effort: str | None = None,
        progress: bool | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation or a list of them, rendered by the model's own chat template.

        A user's content may hold parts `image_url` and `input_audio`, as data URLs, base64 or `file://` addresses.
        tools: functions that the answers may call, as OpenAI has them. reasoning_effort: for templates that have a
        place for it. Raises InvalidRequestError naming the field.
        """
        if not messages:
            raise InvalidRequestError("messages is empty; give at least one message.", param="messages")
        one = isinstance(messages[0], Mapping)
        conversations = cast("list[Sequence[Message]]", [messages] if one else list(messages))
        tokenizer = self._tokenizer("chat")
        encoded = [
            tokenizer.render(self._read_media(conversation), tools=tools, reasoning_effort=reasoning_effort)
            for conversation in conversations
        ]
        readers = [
            self._answer_reader(conversation, prompt.token_ids, tools=bool(tools))
            for conversation, prompt in zip(conversations, encoded, strict=True)
        ]
        return self._run(encoded, _one_each(params, len(encoded)), progress, readers)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        pooling: Literal["last", "mean"] = "last",
        normalise: bool = True,
    ) -> np.ndarray:
        """Vectors of prompts, float32 `[N, D]`: the last token's hidden state, or the mean of all.

        normalise: to a Euclidean length of 1, so that dot products are cosines.
        Raises InvalidRequestError and PromptTooLongError before anything runs.
        """
        requests = [
            EngineRequest(
                request_id=new_id("embd"),
                prompt_token_ids=prompt.token_ids,
                spans=prompt.spans,
                media=prompt.media,
                params=_NO_ANSWER,
                seed=0,
                pooling=pooling,
            )
            for prompt in map(self._encode, _as_list(prompts))
        ]
        for request in requests:
            self.engine.check(request)
        vectors: dict[str, bytes] = {}
        for event in self._events(deque(requests)):
            if event.embedding is not None:
                vectors[event.request_id] = event.embedding
        stacked_ND = np.stack([np.frombuffer(vectors[request.request_id], dtype="<f4") for request in requests])
        if normalise:
            stacked_ND = stacked_ND / np.maximum(np.linalg.norm(stacked_ND, axis=1, keepdims=True), 1e-12)
        return stacked_ND.astype(np.float32)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[str]:
        """Yield the answer to one prompt as text pieces of whole characters."""
        yield from self._stream(self._encode(prompt), params or SamplingParams(), self._plain)

    def stream_chat(self, messages: Sequence[Message], params: SamplingParams | None = None) -> Iterator[str]:
        """Yield the answer to one conversation as text pieces of whole characters."""
        prompt = self._tokenizer("chat").render(self._read_media(messages))
        reader = self._answer_reader(messages, prompt.token_ids, tools=False)
        yield from self._stream(prompt, params or SamplingParams(), reader)

    def _encode(self, prompt: Prompt) -> RenderedPrompt:
        if isinstance(prompt, RenderedPrompt):
            return prompt
        if isinstance(prompt, str):
            return RenderedPrompt(self._tokenizer("a text prompt").encode(prompt))
        return RenderedPrompt([int(token) for token in prompt])

    def _read_media(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages as the tokenizer takes them. Raises InvalidRequestError naming the part that cannot be read."""
        split = split_inline(messages, self._senses)
        found = {}
        for source in find_sources(split, self._senses):
            data = _read_file(source) if source.data is None else source.data
            found[source.place] = read_source(source, data, source.declared, self._senses)
        return put_back(split, found)

    def _tokenizer(self, what: str) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError(f"The model's folder has no tokenizer, which {what} needs; give token ids instead.")
        return self.tokenizer

    def _run(
        self,
        prompts: list[RenderedPrompt],
        params: list[SamplingParams],
        progress: bool | None,
        readers: Sequence[Callable[[SamplingParams], Reader | None]],
    ) -> list[RequestOutput]:
        jobs = [_Job(self, prompt, one, reader) for prompt, one, reader in zip(prompts, params, readers, strict=True)]
        owners = {request.request_id: (job, i) for job in jobs for i, request in enumerate(job.requests)}
        with _bar(len(owners), progress) as advance:
            for event in self._events(deque(request for job in jobs for request in job.requests)):
                job, index = owners[event.request_id]
                if job.take(index, event):
                    self._end(event.request_id)
                    advance()
        return [job.output() for job in jobs]

    def _events(self, queue: deque[EngineRequest]) -> Generator[TokensEvent]:
        """Run requests to their end, no more of them queued at a time than the engine takes.

        Others may run on the same engine meanwhile, such as a stream that is not read to its end yet: whoever makes a
        step gives each event to the box of those who asked for it.
        """
        box = _Box({request.request_id for request in queue})
        try:
            while box.open:
                most = self.engine.options.max_waiting
                while queue and self.engine.stats().waiting < most and self.engine.holds_media(queue[0]):
                    request = queue.popleft()
                    self._boxes[request.request_id] = box
                    self.engine.add(request)
                if not box.events:
                    self._step()
                while box.events:
                    event = box.events.popleft()
                    if event.request_id not in box.open:
                        continue  # it was ended by its reader, in the middle of what one step gave
                    if event.finish_reason is not None:
                        self._forget(event.request_id)
                    yield event
        finally:
            # Whatever happens (an error, Ctrl-C, a stream nobody reads on), no request stays behind.
            for request_id in list(box.open):
                self._end(request_id)

    def _step(self) -> None:
        if not self.engine.has_work:
            raise OstroError("The engine has ended requests that are still waited for. Load the model again.")
        for event in self.engine.step():
            box = self._boxes.get(event.request_id)
            if box is not None:
                box.events.append(event)

    def _end(self, request_id: str) -> None:
        self.engine.abort(request_id)
        self._forget(request_id)

    def _forget(self, request_id: str) -> None:
        box = self._boxes.pop(request_id, None)
        if box is not None:
            box.open.discard(request_id)

    def _plain(self, params: SamplingParams) -> Reader | None:
        if self.tokenizer is None:
            return None
        return PlainParser(self.tokenizer, stop=params.stop, min_tokens=params.min_tokens)

    def _answer_reader(
        self, conversation: Sequence[Message], prompt: Sequence[int], *, tools: bool
    ) -> Callable[[SamplingParams], Reader | None]:
        """What makes readers for a conversation's answers, which may go on with the prompt's text or thought."""
        tokenizer = self._tokenizer("chat")
        thinking, continuation = tokenizer.leaves_thinking(prompt), bool(conversation[-1].get("prefix"))
        return lambda params: AnswerParser(
            tokenizer,
            stop=params.stop,
            min_tokens=params.min_tokens,
            continuation=continuation,
            thinking=thinking,
            tools=tools,
        )

    def _stream(
        self, prompt: RenderedPrompt, params: SamplingParams, reader: Callable[[SamplingParams], Reader | None]
    ) -> Iterator[str]:
        if params.n != 1:
            raise InvalidRequestError("A stream has one answer; n must be 1.", param="n")
        job = _Job(self, prompt, params, reader)
        shown = 0
        with closing(self._events(deque(job.requests))) as events:
            for event in events:
                done = job.take(0, event)
                text = job.completions[0].text
                if len(text) > shown:
                    yield text[shown:]
                    shown = len(text)
                if done:
                    break


@dataclass
class _Box:
    """Events of the requests that one caller waits for. open: those that have not ended."""

    open: set[str]
    events: deque[TokensEvent] = field(default_factory=deque)


class _Job:
    """One prompt's requests and what has come of them."""

    def __init__(
        self,
        llm: LLM,
        prompt: RenderedPrompt,
        params: SamplingParams,
        reader: Callable[[SamplingParams], Reader | None],
    ) -> None:
        self.prompt = prompt.token_ids
        if params.stop:
            llm._tokenizer("a stop string")
        self.requests: list[EngineRequest] = expand(
            new_id("req"),
            prompt.token_ids,
            params,
            spans=prompt.spans,
            media=prompt.media,
            eos_ids=llm._eos_ids,
            context=llm.engine.card.context,
        )
        for request in self.requests:
            llm.engine.check(request)
            llm.engine.compile(request)
        self.completions = [Completion(logprobs=None if params.logprobs is None else []) for _ in self.requests]
        self._readers = [reader(params) for _ in self.requests]
        self._cached = 0
        self._prompt_logprobs: list[TokenLogprobs | None] | None = None
        self._labels: list[LabelScore] = []

    def take(self, index: int, event: TokensEvent) -> bool:
        """Add an event's tokens; True when this completion is done (the engine may not know it yet).

        Raises OstroError where the engine could not go on.
        """
        if event.finish_reason == "error":
            message = event.error or "The engine could not go on with this request."
            if event.error_param is not None:
                raise InvalidRequestError(message, param=event.error_param, code="invalid_grammar")
            raise OstroError(message)
        completion, reader = self.completions[index], self._readers[index]
        self._cached = max(self._cached, event.cached_tokens)
        self._prompt_logprobs = event.prompt_logprobs or self._prompt_logprobs
        self._labels = event.labels or self._labels
        consumed = len(event.token_ids)
        stopped = False
        if reader is not None:
            parsed = reader.push(event.token_ids)
            _add_parts(completion, parsed.parts)
            consumed, stopped = parsed.consumed, parsed.stopped
        completion.token_ids += event.token_ids[:consumed]
        if completion.logprobs is not None and event.logprobs is not None:
            completion.logprobs += event.logprobs[:consumed]
        if stopped:
            completion.finish_reason = "stop"
        elif event.finish_reason is not None:
            completion.finish_reason = event.finish_reason
            if reader is not None:
                _add_parts(completion, reader.finish())
        if completion.finish_reason == "stop" and completion.tool_calls:
            completion.finish_reason = "tool_calls"
        return bool(completion.finish_reason)

    def output(self) -> RequestOutput:
        usage = Usage(
            prompt_tokens=len(self.prompt),
            completion_tokens=sum(len(completion.token_ids) for completion in self.completions),
            cached_tokens=self._cached,
        )
        return RequestOutput(self.prompt, self.completions, usage, self._prompt_logprobs, self._labels)


def _add_parts(completion: Completion, parts: Sequence[Part]) -> None:
    for part in parts:
        match part:
            case Text(text):
                completion.text += text
            case Reasoning(text):
                completion.reasoning += text
            case CallStart(_, call_id, name):
                completion.tool_calls.append(ToolCall(call_id, name))
            case CallArguments(index, text):
                completion.tool_calls[index].arguments += text


def _read_file(source: MediaSource) -> bytes:
    """What a `file://` address holds; others would have to be fetched, which this process does not do by itself."""
    url = source.url or ""
    if not url.startswith("file://"):
        raise InvalidRequestError(
            f"{source.where} is an address. LLM fetches nothing: give a data URL, base64 or a file:// address.",
            param=source.where,
        )
    try:
        return Path(unquote(urlsplit(url).path)).read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{source.where}: {url} cannot be read: {error}.", param=source.where) from error


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A text, or a flat list of token ids, is one prompt."""
    if isinstance(prompts, str | RenderedPrompt):
        return [prompts]
    items = list(prompts)
    if items and all(isinstance(item, int) for item in items):
        return [cast("list[int]", items)]
    return cast("list[Prompt]", items)


def _one_each(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None:
        params = SamplingParams()
    if isinstance(params, SamplingParams):
        return [params] * count
    if len(params) != count:
        raise InvalidRequestError(f"{len(params)} sampling parameters for {count} prompts.", param="params")
    return list(params)


@contextmanager
def _bar(total: int, show: bool | None) -> Iterator[Any]:
    """Yields a function that counts one completion as done."""
    if not (sys.stderr.isatty() if show is None else show):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("generating", total=total)
        yield lambda: bar.advance(task)
