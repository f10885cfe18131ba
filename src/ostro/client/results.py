"""What is asked and answered, as HTTP has it and as Python has it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ostro.client.failures import error_of_chunk
from ostro.client.inputs import as_content, wire_inputs
from ostro.core.errors import APIConnectionError, APIError
from ostro.core.request import ToolCall, Usage
from ostro.routing.endpoints import Candidate

Messages = Sequence[Mapping[str, Any]]
_DONE = "[DONE]"


@dataclass(frozen=True)
class Label:
    """score: its probability among the labels of its group, and none of them. group: such as "intent"."""

    label: str
    score: float
    group: str = ""


@dataclass(frozen=True)
class InferResult:
    """What `infer` gives. route: "edge" or "cloud", and the reason why. labels: found labels, where a model gives
    any. cost: 0.0 on an edge node, None where the node tells no price. latency_ms: from the call to the answer."""

    text: str
    labels: list[Label]
    route: str
    reason: str
    usage: Usage
    cost: float | None
    latency_ms: float


@dataclass(frozen=True)
class ChatResult:
    """One answer. finish_reason: "stop", "length" or "tool_calls". reasoning, tool_calls: what it holds beside its
    text. raw: the server's whole JSON body, with all choices where several were asked for."""

    text: str
    finish_reason: str
    usage: Usage
    id: str
    model: str
    raw: dict[str, Any] = field(repr=False)
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)


@dataclass(frozen=True)
class ToolCallDelta:
    """A piece of a call: its id and name come with the first, its arguments in all; joined, they are JSON text."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ChatDelta:
    """A piece of a streamed answer. usage comes with the last one."""

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)


def chat_body(messages: Messages, stream: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    body = {**options, "messages": [dict(message) for message in messages]}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def infer_body(inputs: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Raises InvalidRequestError for inputs that cannot be sent."""
    return {"inputs": wire_inputs(inputs), **{name: value for name, value in options.items() if value is not None}}


def infer_as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same for servers that speak OpenAI's API alone."""
    options = {name: value for name, value in body.items() if name != "inputs"}
    return {"messages": [{"role": "user", "content": as_content(body["inputs"])}], **options}


def usage_of(body: Mapping[str, Any]) -> Usage:
    usage = body.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", 0),
        cached_tokens=details.get("cached_tokens", 0),
        reasoning_tokens=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0),
    )


def chat_result(body: dict[str, Any]) -> ChatResult:
    choice = body["choices"][0]
    message = choice.get("message") or {"content": choice.get("text")}
    calls = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    ids = [call.get("id") or "" for call in message.get("tool_calls") or ()]
    return ChatResult(
        text=_text(message),
        finish_reason=choice.get("finish_reason") or "",
        usage=usage_of(body),
        id=body.get("id", ""),
        model=body.get("model", ""),
        raw=body,
        reasoning=_reasoning(message),
        tool_calls=[
            ToolCall(call_id, call.get("name") or "", call.get("arguments") or "")
            for call_id, call in zip(ids, calls, strict=True)
        ],
    )


def _label(value: Any) -> Label:
    """As nodes here tell them, or a bare name."""
    if not isinstance(value, Mapping):
        return Label(str(value), 1.0)
    return Label(str(value.get("label", "")), float(value.get("score") or 0.0), str(value.get("group") or ""))


def _text(message: Mapping[str, Any]) -> str:
    """A message's text; where its content is in parts, that of its text parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if part.get("type") == "text")


def _reasoning(message: Mapping[str, Any]) -> str:
    """What was thought: beside the content, or in its `thinking` parts."""
    beside = message.get("reasoning_content") or message.get("reasoning") or ""
    content = message.get("content") or ""
    if beside or isinstance(content, str):
        return str(beside)
    chunks = [chunk for part in content if part.get("type") == "thinking" for chunk in part.get("thinking") or ()]
    return "".join(chunk.get("text") or "" for chunk in chunks)


def infer_result(body: dict[str, Any], node: Candidate, started: float) -> InferResult:
    cost = body.get("cost")
    return InferResult(
        text=chat_result(body).text if "choices" in body else body["text"],
        labels=[_label(one) for one in body.get("labels") or ()],
        route=node.route,
        reason=node.reason,
        usage=usage_of(body),
        cost=0.0 if cost is None and node.route == "edge" else cost,
        latency_ms=(time.perf_counter() - started) * 1000.0,
    )


class StreamReader:
    """Reads an event stream line by line, to its end."""

    def __init__(self) -> None:
        self._ended = False

    def read(self, line: str) -> ChatDelta | None:
        """As `delta_of`."""
        delta = delta_of(line)
        finished = delta is not None and delta.finish_reason is not None
        self._ended = self._ended or finished or _data(line) == _DONE
        return delta

    def check_end(self) -> None:
        """There are no more lines. Raises APIConnectionError where the answer had more to come."""
        if not self._ended:
            raise APIConnectionError("The stream ended before the answer did. What came of it is not all.")


def delta_of(line: str) -> ChatDelta | None:
    """What one line of an event stream says; None for heartbeats, blank lines and empty chunks."""
    data = _data(line)
    if data is None or data == _DONE:
        return None
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise APIError("The server's stream has a line that is no JSON object.", status=502)
    error = error_of_chunk(chunk)
    if error is not None:
        raise error
    usage = usage_of(chunk) if chunk.get("usage") else None
    choice = chunk["choices"][0] if chunk.get("choices") else {}
    said = choice.get("delta") or {"content": choice.get("text")}
    delta = ChatDelta(_text(said), choice.get("finish_reason"), usage, _reasoning(said), _call_deltas(said))
    return None if delta == ChatDelta("") else delta


def _data(line: str) -> str | None:
    """What an event's line says; None for other lines."""
    return line.removeprefix("data:").strip() if line.startswith("data:") else None


def _call_deltas(message: Mapping[str, Any]) -> list[ToolCallDelta]:
    deltas = []
    for place, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        deltas.append(ToolCallDelta(call.get("index", place), call.get("id") or "", name, arguments))
    return deltas
