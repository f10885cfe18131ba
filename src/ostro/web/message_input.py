"""What `/v1/messages` takes: messages of blocks, and the same conversation as the chat endpoint has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict

from ostro.core.errors import InvalidRequestError
from ostro.web.bounded import Many
from ostro.web.text_or import OTHER, TEXT, TextOr

_STRICT = ConfigDict(extra="allow", strict=True)

_PARTS = ("text", "thinking", "image")
_KINDS = {
    "user": ("text", "image", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}
_PLACE = re.compile(r"\bmessages\[(\d+)\](\.content(?:\[(\d+)\])?)?")


class TextOnly(BaseModel):
    """A block where only text can be. Other kinds are refused."""

    model_config = _STRICT

    type: str
    text: str | None = None


Texts = Annotated[Annotated[str, TEXT] | Annotated[Many[TextOnly], OTHER], TextOr]


class ImageSource(BaseModel):
    """data: base64, with the media_type, for type "base64". url: for type "url"."""

    model_config = _STRICT

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class MessageBlock(BaseModel):
    """A block of a message; which fields it has depends on its type.

    text: text. image: source, which is base64 or a url. thinking: thinking; its signature is not looked at.
    redacted_thinking: nothing that a model could read. tool_use: id, name and input. tool_result: tool_use_id, content
    and is_error.
    """

    model_config = _STRICT

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: Texts | None = None
    is_error: bool | None = None
    source: ImageSource | None = None


class InputMessage(BaseModel):
    model_config = _STRICT

    role: Literal["user", "assistant", "system"]
    content: Annotated[Annotated[str, TEXT] | Annotated[Many[MessageBlock], OTHER], TextOr]


def chat_messages(system: str | Sequence[TextOnly] | None, messages: Sequence[InputMessage]) -> list[dict[str, Any]]:
    """The conversation as OpenAI has it.

    Results of calls become messages of their own, before whatever else their message says. Raises InvalidRequestError
    for blocks of unknown types, and for calls and results that do not belong together.
    """
    chat: list[dict[str, Any]] = []
    if system:
        texts = system if isinstance(system, str) else [_text("system", *one) for one in enumerate(system)]
        chat.append({"role": "system", "content": texts})
    calls = _Calls()
    for index, message in enumerate(messages):
        chat += _chat_message(f"messages[{index}].content", message, calls)
    calls.check_answered()
    return chat


def sent_names(text: str, system: str | Sequence[TextOnly] | None, messages: Sequence[InputMessage]) -> str:
    """A text that names messages of `chat_messages` and their parts, with the names of what they were made of."""
    origins: list[tuple[str, list[str]]] = []
    if system:
        origins.append(("system", [f"system[{index}]" for index in range(len(system)) if not isinstance(system, str)]))
    for index, message in enumerate(messages):
        origins += _origins(f"messages[{index}]", message)

    def named(found: re.Match[str]) -> str:
        number, content, part = int(found[1]), found[2], found[3]
        if number >= len(origins):
            return found[0]
        name, parts = origins[number]
        if part is not None and int(part) < len(parts):
            return parts[int(part)]
        return f"{name}.content" if content and name != "system" else name

    return _PLACE.sub(named, text)


def missing(field: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{field}' is missing.", param=field, code="missing_required_parameter")


class _Calls:
    """The calls that wait for their results: where each is, by its id."""

    def __init__(self) -> None:
        self._waiting: dict[str, str] = {}

    def call(self, where: str, block: MessageBlock) -> dict[str, Any]:
        if not block.id:
            raise missing(f"{where}.id")
        if not block.name or not block.name.strip():
            raise missing(f"{where}.name")
        if block.input is None:
            raise missing(f"{where}.input")
        if block.id in self._waiting:
            raise InvalidRequestError(f"{where}.id: two tool_use blocks have this id.", param=f"{where}.id")
        self._waiting[block.id] = where
        return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}

    def answer(self, where: str, block: MessageBlock) -> dict[str, Any]:
        if not block.tool_use_id:
            raise missing(f"{where}.tool_use_id")
        if self._waiting.pop(block.tool_use_id, None) is None:
            raise InvalidRequestError(
                f"{where}.tool_use_id is {block.tool_use_id[:64]!r}, but no tool_use of that id in the assistant's "
                "message before it waits for a result.",
                param=f"{where}.tool_use_id",
            )
        content = block.content or ""
        if not isinstance(content, str):
            parts = [_text(f"{where}.content", index, part) for index, part in enumerate(content)]
            content = "\n\n".join(part["text"] for part in parts)
        if block.is_error:
            content = f"Error: {content}"
        return {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}

    def check_answered(self) -> None:
        for where in self._waiting.values():
            raise InvalidRequestError(
                f"{where} is a tool_use without its result: the next message has to begin with a tool_result for each.",
                param=where,
            )


def _chat_message(where: str, message: InputMessage, calls: _Calls) -> list[dict[str, Any]]:
    blocks = message.content
    if isinstance(blocks, str):
        calls.check_answered()
        return [{"role": message.role, "content": blocks}]
    for index, block in enumerate(blocks):
        _check_kind(f"{where}[{index}]", message.role, block)
    results = [
        calls.answer(f"{where}[{index}]", block) for index, block in enumerate(blocks) if block.type == "tool_result"
    ]
    parts = [_part(where, index, block) for index, block in enumerate(blocks) if block.type in _PARTS]
    if results and not parts:
        return results
    calls.check_answered()
    made = [calls.call(f"{where}[{index}]", block) for index, block in enumerate(blocks) if block.type == "tool_use"]
    return [*results, {"role": message.role, "content": parts, **({"tool_calls": made} if made else {})}]


def _origins(where: str, message: InputMessage) -> list[tuple[str, list[str]]]:
    """Of each message that `_chat_message` makes of one, where it stood, and where its parts did."""
    if isinstance(message.content, str):
        return [(where, [])]
    named = [(f"{where}.content[{index}]", block.type) for index, block in enumerate(message.content)]
    results = [(name, list[str]()) for name, kind in named if kind == "tool_result"]
    parts = [name for name, kind in named if kind in _PARTS]
    return results if results and not parts else [*results, (where, parts)]


def _check_kind(where: str, role: str, block: MessageBlock) -> None:
    if block.type not in _KINDS[role]:
        raise InvalidRequestError(
            f"{where} is of type {block.type[:40]!r}; a message of role '{role}' takes blocks of type "
            f"{', '.join(_KINDS[role])}.",
            param=f"{where}.type",
            code="unsupported_content",
        )


def _part(where: str, index: int, block: MessageBlock) -> dict[str, Any]:
    if block.type == "text":
        return _text(where, index, block)
    if block.type == "image":
        return _image(f"{where}[{index}]", block.source)
    if block.thinking is None:
        raise missing(f"{where}[{index}].thinking")
    return {"type": "thinking", "thinking": block.thinking}


def _image(where: str, source: ImageSource | None) -> dict[str, Any]:
    if source is None:
        raise missing(f"{where}.source")
    if source.type not in ("base64", "url"):
        raise InvalidRequestError(
            f"{where}.source is of type {source.type[:40]!r}; it can be 'base64' or 'url'.",
            param=f"{where}.source.type",
        )
    field = "data" if source.type == "base64" else "url"
    value = getattr(source, field)
    if value is None:
        raise missing(f"{where}.source.{field}")
    return {"type": "image_url", "image_url": {field: value, "media_type": source.media_type}}


def _text(where: str, index: int, block: TextOnly | MessageBlock) -> dict[str, Any]:
    if block.type != "text":
        raise InvalidRequestError(
            f"{where}[{index}] is of type {block.type[:40]!r}, but this model takes text only.",
            param=f"{where}[{index}].type",
            code="unsupported_content",
        )
    if block.text is None:
        raise missing(f"{where}[{index}].text")
    return {"type": "text", "text": block.text}
