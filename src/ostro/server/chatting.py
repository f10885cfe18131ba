"""A conversation on its way to an answer, whatever API it came in by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request

from ostro.core import constraints
from ostro.core.constraints import ResponseFormat, ToolPolicy
from ostro.core.errors import InvalidRequestError, PromptTooLongError
from ostro.core.media import Prompt
from ostro.core.sampling import SamplingParams
from ostro.server.answering import submit
from ostro.server.context import ServerContext
from ostro.server.generation import AnswerReader, Generation, TokensOnly
from ostro.server.models import ServedModel
from ostro.tokenizer.conversation import read_messages
from ostro.tokenizer.grammars import chat_constraint
from ostro.tokenizer.parser import AnswerParser
from ostro.web.auth import owner_of
from ostro.web.disconnect import while_connected

CAREFUL = (
    "Be helpful and truthful. Do not give instructions that could hurt somebody, do not demean or deceive people, "
    "and say so when you refuse."
)


_ANY_TOOL = ToolPolicy()
_ANY_TEXT = ResponseFormat()


@dataclass(frozen=True, kw_only=True)
class ChatSpec:
    """messages, tools: as OpenAI has them. params: without a constraint, which `response` and `policy` make.

    reasoning_effort: ignored by models whose template has no place for it; `ignored` tells.
    safe_prompt: put `CAREFUL` before everything. continue_final: the last message is the assistant's and is gone on
    with. inspect: tell how attention is routed. response_param: the field that `response` came from.
    """

    messages: Sequence[Mapping[str, Any]]
    params: SamplingParams
    tools: Sequence[Mapping[str, Any]] = ()
    policy: ToolPolicy = _ANY_TOOL
    response: ResponseFormat = _ANY_TEXT
    reasoning_effort: str | None = None
    safe_prompt: bool = False
    continue_final: bool = False
    inspect: bool = False
    priority: int = 0
    timeout: float | None = None
    messages_param: str = "messages"
    response_param: str = "response_format"

    @property
    def format_param(self) -> str:
        """The field that says what form the answer must have."""
        return "tools" if self.response.kind == "text" else self.response_param

    def ignored(self, model: ServedModel) -> tuple[str, ...]:
        """Fields that this model has no place for, to be named in the `x-ostro-ignored` header."""
        return () if self.reasoning_effort is None or _takes_effort(model) else ("reasoning_effort",)


async def start_chat(
    request: Request, context: ServerContext, model: ServedModel, spec: ChatSpec, request_id: str
) -> Generation:
    """Render, constrain and queue a conversation.

    Raises InvalidRequestError naming the field, PromptTooLongError, NotReadyError, QueueFullError.
    """
    prompt = await render(request, context, model, spec)
    params = await _constrained(context, model, spec, prompt.token_ids)
    return submit(
        context,
        model,
        [prompt],
        params,
        _reader(model, spec, prompt.token_ids, continuation=continues(spec)),
        request_id=request_id,
        owner=owner_of(request.scope),
        priority=spec.priority,
        timeout_s=spec.timeout,
        param=spec.messages_param,
        format_param=spec.format_param,
        inspect=spec.inspect,
    )


async def render(request: Request, context: ServerContext, model: ServedModel, spec: ChatSpec) -> Prompt:
    """The prompt that asks for the answer. Raises InvalidRequestError naming the field."""
    card = model.engine.card
    reading = context.media.read(spec.messages, model.senses, None if card is None else card.context)
    try:
        messages = await while_connected(request, reading)
    except PromptTooLongError as error:
        error.param = spec.messages_param
        raise
    if spec.safe_prompt:
        read_messages(messages, continue_final=spec.continue_final)  # errors tell places as the client counts them
        messages = _careful(messages)
    options: dict[str, Any] = {}
    if spec.tools:
        options["tools"] = spec.tools
    if spec.reasoning_effort is not None and _takes_effort(model):
        options["reasoning_effort"] = spec.reasoning_effort
    if spec.continue_final:
        options["continue_final"] = True
    return await model.render(messages, **options)


async def constrained(
    context: ServerContext, params: SamplingParams, response: ResponseFormat, param: str
) -> SamplingParams:
    """The sampling parameters for plain text of some format. param: the field that asked for it."""
    constraint = constraints.of_response(response)
    return params if constraint is None else await _checked(context, params, constraint, param)


async def _constrained(
    context: ServerContext, model: ServedModel, spec: ChatSpec, prompt: Sequence[int]
) -> SamplingParams:
    """The sampling parameters with what the answer's form allows."""
    tokenizer = model.tokenizer
    assert tokenizer is not None, "its template was needed already"
    # Vocabularies have the markers even where the model was never taught to think; under a constraint such a model
    # would as soon think for ever as begin its call. One that was is told to, by its system prompt or by the effort.
    thinks = spec.reasoning_effort not in (None, "none") or tokenizer.special_id("[THINK]") in prompt
    inside = tokenizer.leaves_thinking(prompt)
    if continues(spec) and spec.response.kind != "text" and not inside:
        raise InvalidRequestError(
            "A format is that of a whole answer, so it cannot be asked for where the answer goes on from a prefix. "
            "Leave out the format or the prefix.",
            param=spec.format_param,
        )
    constraint = chat_constraint(
        tokenizer, tools=spec.tools, policy=spec.policy, response=spec.response, thinks=thinks, inside=inside
    )
    if constraint is not None:
        return await _checked(context, spec.params, constraint, spec.format_param)
    calls = tokenizer.special_id("[TOOL_CALLS]") if spec.tools and spec.policy.mode == "none" else None
    if calls is None:
        return spec.params
    return msgspec.structs.replace(spec.params, banned_token_ids=[*spec.params.banned_token_ids, calls])


async def _checked(context: ServerContext, params: SamplingParams, constraint: str, param: str) -> SamplingParams:
    if params.ignore_eos:
        raise InvalidRequestError(
            "ignore_eos cannot go together with a format: a finished answer has to end.", param="ignore_eos"
        )
    await context.grammars.check(constraint, param=param)
    return msgspec.structs.replace(params, constraint=constraint)


def _reader(
    model: ServedModel, spec: ChatSpec, prompt: Sequence[int], *, continuation: bool
) -> Callable[[], AnswerReader]:
    tokenizer = model.tokenizer
    if tokenizer is None:
        return TokensOnly
    thinking = tokenizer.leaves_thinking(prompt)
    return lambda: AnswerParser(
        tokenizer,
        stop=spec.params.stop,
        min_tokens=spec.params.min_tokens,
        continuation=continuation,
        thinking=thinking,
        tools=bool(spec.tools) and spec.policy.mode != "none",
        formatted=spec.response.kind != "text",
    )


def continues(spec: ChatSpec) -> bool:
    """Whether the answer goes on with the last message."""
    return bool(spec.messages[-1].get("prefix")) or spec.continue_final


def _takes_effort(model: ServedModel) -> bool:
    return bool(getattr(model.tokenizer, "supports_reasoning_effort", False))


def _careful(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With `CAREFUL` as a system message, in one with the client's own where that comes first."""
    first = messages[0]
    if first.get("role") not in ("system", "developer"):
        return [{"role": "system", "content": CAREFUL}, *messages]
    own = first.get("content") or ""
    parts = [{"type": "text", "text": own}] if isinstance(own, str) else list(own)
    content = [{"type": "text", "text": CAREFUL + "\n\n"}, *parts]
    return [{**first, "content": content}, *messages[1:]]
