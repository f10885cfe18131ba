"""Items as the messages that templates take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ostro.core.errors import InvalidRequestError
from ostro.web.response_items import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputAudio,
    InputImage,
    Item,
    MessageItem,
    MessagePart,
    ReasoningItem,
    Refusal,
)

# Fields that other layers name as the chat endpoint does.
_NAMES = {
    "max_tokens": "max_output_tokens",
    "logprobs": "top_logprobs",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "tool_choice.allowed_tools": "tool_choice.tools",
}
_MESSAGE = re.compile(r"\bmessages\[(\d+)\](?:\.tool_calls\[(\d+)\](?:\.function)?(\.\w+)?)?[\w.\[\]]*")

_PART = re.compile(r"\.content\[\d+\][\w.]*")


class ChatMessages:
    """Messages, and which field of the request each came from.

    What an assistant thinks, says and calls stands in several items and is one message. Every call needs its output
    right after it, and every output its call. Raises InvalidRequestError.
    """

    def __init__(self, instructions: str | None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.origins: list[str] = []
        self._call_origins: dict[tuple[int, int], str] = {}  # by numbers of the message and of its call
        self._assistant: dict[str, Any] | None = None
        self._waiting: list[str] = []
        if instructions:
            self._append("instructions", {"role": "system", "content": instructions})

    def add(self, origin: str, item: Item) -> None:
        """origin: the field of the request that the item came from."""
        match item:
            case MessageItem(role="assistant"):
                message = self._answer(origin, says=True)
                message["content"] = message["content"] or []
                message["content"] += _parts(item)
            case MessageItem():
                self._other(origin, {"role": item.role, "content": _parts(item)})
            case ReasoningItem():
                thought = "".join(part.text for part in item.content)
                if thought:
                    message = self._answer(origin)
                    message.setdefault("reasoning_content", []).append(thought)
            case FunctionCallItem(status="incomplete"):
                pass  # it was cut off, so nobody can have made it
            case FunctionCallItem():
                function = {"name": item.name, "arguments": item.arguments}
                calls = self._answer(origin).setdefault("tool_calls", [])
                self._call_origins[len(self.messages) - 1, len(calls)] = origin
                calls.append({"id": item.call_id, "type": "function", "function": function})
                self._waiting.append(item.call_id)
            case FunctionCallOutputItem():
                self._output(origin, item)

    def finish(self) -> None:
        """Nothing more comes. Messages are complete from here on."""
        self._refuse_unanswered()
        for message in self.messages:
            if "reasoning_content" in message:
                message["reasoning_content"] = "".join(message["reasoning_content"])

    @contextmanager
    def own_words(self) -> Iterator[None]:
        """Errors that name messages and the chat endpoint's fields, in the words of this one."""
        try:
            yield
        except InvalidRequestError as error:
            error.message = self._translated(error.message)
            error.args = (error.message,)
            if error.param is not None:
                error.param = _NAMES.get(error.param, self._translated(error.param))
            raise

    def _translated(self, text: str) -> str:
        def origin(found: re.Match[str]) -> str:
            number = int(found.group(1))
            if found.group(2) is not None:
                call = self._call_origins.get((number, int(found.group(2))), "input")
                return call + (found.group(3) or "" if call.startswith("input[") else "")
            if number >= len(self.origins):
                return "input"
            # A user's message is one item, so that its parts are where they were.
            own = self.origins[number].startswith("input[") and self.messages[number]["role"] == "user"
            part = _PART.search(found.group()) if own else None
            return self.origins[number] + ("" if part is None else part.group().replace("image_url.url", "image_url"))

        text = _MESSAGE.sub(origin, text)
        text = re.sub(r"\b(these )?messages\b", lambda found: "this input" if found.group(1) else "input", text)
        text = re.sub(r"\b(tools\[\d+\])\.function\b", r"\1", text)
        return re.sub(r"\bmax_tokens\b", "max_output_tokens", text)

    def _answer(self, origin: str, *, says: bool = False) -> dict[str, Any]:
        """The assistant's message that an item belongs to. says: the item is text, which begins a message of its own
        after other text. While calls wait, all is one message: their outputs come behind it."""
        going_on = self._assistant
        if going_on is not None and (self._waiting or not (says and going_on["content"])):
            return going_on
        self._refuse_unanswered()
        self._assistant = {"role": "assistant", "content": None}
        self._append(origin, self._assistant)
        return self._assistant

    def _other(self, origin: str, message: dict[str, Any]) -> None:
        self._refuse_unanswered()
        self._assistant = None
        self._append(origin, message)

    def _output(self, origin: str, item: FunctionCallOutputItem) -> None:
        if item.call_id not in self._waiting:
            raise InvalidRequestError(
                f"{origin} answers the call '{item.call_id[:64]}', but no call of that id before it waits for one.",
                param=f"{origin}.call_id",
            )
        self._waiting.remove(item.call_id)
        self._assistant = None
        output = item.output
        content = output if isinstance(output, str) else [{"type": "text", "text": part.text} for part in output]
        self._append(origin, {"role": "tool", "tool_call_id": item.call_id, "content": content})

    def _refuse_unanswered(self) -> None:
        if self._waiting:
            raise InvalidRequestError(
                f"No output was found for the function call '{self._waiting[0][:64]}'. Send an item of type "
                "'function_call_output' with its call_id right after it.",
                param="input",
            )

    def _append(self, origin: str, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self.origins.append(origin)


def _parts(item: MessageItem) -> Sequence[dict[str, Any]]:
    return [_part(part) for part in item.content]


def _part(part: MessagePart) -> dict[str, Any]:
    match part:
        case Refusal(refusal):
            return {"type": "refusal", "refusal": refusal}
        case InputImage():
            return {"type": "image_url", "image_url": {"url": part.image_url}}
        case InputAudio(input_audio):
            return {"type": "input_audio", "input_audio": input_audio}
    return {"type": "text", "text": part.text}
