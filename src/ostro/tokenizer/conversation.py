"""OpenAI-shaped messages as a conversation that a text template can express."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ostro.core.errors import InvalidRequestError
from ostro.tokenizer.base import replace_surrogates
from ostro.tokenizer.call_ids import template_id

Role = Literal["system", "user", "assistant", "tool"]

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",  # OpenAI's first name for it
}
_MEDIA = {
    "image_url": "image",
    "image": "image",
    "input_image": "image",
    "input_audio": "audio",
    "audio": "audio",
    "audio_url": "audio",
    "video_url": "video",
    "file": "file",
}


@dataclass(frozen=True)
class Call:
    """A tool call of the conversation. id: nine alphanumerics. arguments: JSON text of an object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Thought:
    """What an assistant thought, at its place among the texts."""

    text: str


@dataclass(frozen=True)
class Turn:
    """One message. parts: texts and thoughts in order. unfinished: the answer goes on from here.

    calls: an assistant's. call_id, name: which call a tool's result belongs to.
    """

    role: Role
    parts: tuple[str | Thought, ...] = ()
    unfinished: bool = False
    calls: tuple[Call, ...] = ()
    call_id: str = ""
    name: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if isinstance(part, str))

    @property
    def is_empty(self) -> bool:
        return not self.calls and not any(part.text if isinstance(part, Thought) else part for part in self.parts)


def read_messages(messages: object, *, continue_final: bool = False) -> list[Turn]:
    """Check `messages` and put them into an order that templates know.

    An empty assistant message is left out, since it is no text in any template. A system message straight after an
    assistant's has no place in the templates and moves behind the user's message that follows it. Messages of one
    role in a row stay apart here; the template merges them. The last assistant message is continued if
    `continue_final` or its own `prefix` (as Mistral's API has it) says so. Each call has its result right after it,
    in the calls' order, under an id that templates take.
    Raises InvalidRequestError (param "messages…") that names the message and the reason.
    """
    if not isinstance(messages, list | tuple):
        raise _refusal("messages must be a list of objects with role and content.")
    if not messages:
        raise _refusal("messages is empty; give at least one message.")
    turns = [_read_message(index, message) for index, message in enumerate(messages)]
    _refuse_early_prefix(turns)
    last = turns[-1]
    if last.role == "assistant" and not last.calls:
        if not (continue_final or last.unfinished):
            raise _refusal(
                "The last message is the assistant's, so there is nothing to answer. End with a user message, or "
                'ask to continue the assistant\'s text: "prefix": true in that message.'
            )
        turns[-1] = replace(last, unfinished=True)
    elif continue_final:
        raise _refusal(f"Only an assistant's text can be continued, but the last message's role is '{last.role}'.")
    turns = _pair_results(turns)
    turns = [turn for turn in turns if turn.role != "assistant" or not turn.is_empty]
    if not turns:
        raise _refusal("No message has any content; give at least one user message.")
    return _place_late_system(turns)


def _read_message(index: int, message: object) -> Turn:
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise _refusal(f"{where} must be an object with role and content, not {type(message).__name__}.")
    name = message.get("role")
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise _refusal(f"{where} has role {name!r}; expected one of: {', '.join(_ROLES)}.")
    prefix = message.get("prefix")
    if prefix not in (None, False, True) or (prefix and role != "assistant"):
        raise _refusal(f"{where}: prefix must be true or false, and true only in an assistant message.")
    content = _read_content(where, role, message.get("content"))
    if role == "assistant":
        return _assistant(where, message, content, bool(prefix))
    if message.get("tool_calls"):
        raise _refusal(f"{where} has tool_calls, which only an assistant message may have.", f"{where}.tool_calls")
    if role == "tool":
        return Turn("tool", content, call_id=_text_field(where, message, "tool_call_id"), name=_name(where, message))
    return Turn(role, content)


def _assistant(where: str, message: Mapping[str, Any], content: tuple[str | Thought, ...], prefix: bool) -> Turn:
    thought = message.get("reasoning_content") or message.get("reasoning")
    if thought is not None and not isinstance(thought, str):
        raise _refusal(f"{where}: reasoning_content must be a string.", f"{where}.reasoning_content")
    if thought and not any(isinstance(part, Thought) for part in content):
        content = (Thought(replace_surrogates(thought)), *content)
    calls = message.get("tool_calls")
    if message.get("function_call"):
        raise _refusal(f"{where} has a function_call; send it as tool_calls.", f"{where}.function_call")
    if calls is not None and not isinstance(calls, list | tuple):
        raise _refusal(f"{where}.tool_calls must be a list.", f"{where}.tool_calls")
    read = tuple(_read_call(f"{where}.tool_calls[{i}]", call) for i, call in enumerate(calls or ()))
    if len({call.id for call in read}) < len(read):
        raise _refusal(f"{where} has two tool_calls of the same id.", f"{where}.tool_calls")
    if read and prefix:
        raise _refusal(f"{where} has tool_calls, so it cannot be continued as a prefix.", f"{where}.prefix")
    return Turn("assistant", content, unfinished=prefix, calls=read)


def _read_call(where: str, call: object) -> Call:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise _refusal(f'{where} must be an object such as {{"id": "…", "function": {{…}}}}.', where)
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise _refusal(f"{where}.function.name must be the name of a function.", f"{where}.function.name")
    given = call.get("id")
    if given is not None and not isinstance(given, str):
        raise _refusal(f"{where}.id must be a string.", f"{where}.id")
    # A call without an id gets one from its place, so that it can still be paired with its result by order.
    call_id = template_id(given) if given and given != "null" else template_id(where)
    return Call(call_id, replace_surrogates(name.strip()), _read_arguments(where, function.get("arguments")))


def _read_arguments(where: str, arguments: object) -> str:
    """JSON text of an object. Clients send it as text, some as the object itself, and nothing for no arguments."""
    field = f"{where}.function.arguments"
    value = arguments
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            raise _refusal(f"{field} is not JSON: {str(error)[:80]}.", field) from error
    elif arguments is None:
        value = {}
    if not isinstance(value, Mapping):
        raise _refusal(f"{field} must be a JSON object.", field)
    try:
        return replace_surrogates(json.dumps(value, ensure_ascii=False))
    except (ValueError, TypeError, RecursionError) as error:
        raise _refusal(f"{field} cannot be written as JSON: {str(error)[:80]}.", field) from error


def _pair_results(turns: Sequence[Turn]) -> list[Turn]:
    """Each run of results right behind the calls that it answers, complete and in their order."""
    paired: list[Turn] = []
    waiting: list[Call] = []
    caller = 0
    for index, turn in enumerate(turns):
        if turn.role == "tool":
            if not waiting:
                raise _refusal(
                    f"messages[{index}] is a tool's result, but no call before it waits for one. The assistant message "
                    "with its tool_calls has to come first.",
                    f"messages[{index}].tool_call_id",
                )
            paired.append(_paired(index, turn, waiting))
            continue
        _refuse_unanswered(caller, waiting)
        paired.append(turn)
        if turn.role == "assistant":
            waiting, caller = list(turn.calls), index
    _refuse_unanswered(caller, waiting)
    return _in_order(paired)


def _paired(index: int, turn: Turn, waiting: list[Call]) -> Turn:
    """The result under its call's id; the call is taken from those that wait."""
    if turn.call_id and turn.call_id != "null":
        wanted = template_id(turn.call_id)
        found = [call for call in waiting if call.id == wanted]
    else:
        found = [call for call in waiting if turn.name in (None, call.name)]
        found = found if turn.name is not None or len(found) == 1 else []
    if not found:
        ids = ", ".join(f"'{call.name}'" for call in waiting)
        raise _refusal(
            f"messages[{index}] answers the call {turn.call_id[:64]!r}, which is not one that waits (of {ids}). Its "
            "tool_call_id has to be that of a call in the assistant message before it, each answered once.",
            f"messages[{index}].tool_call_id",
        )
    waiting.remove(found[0])
    return replace(turn, call_id=found[0].id, name=turn.name or found[0].name)


def _refuse_unanswered(caller: int, waiting: Sequence[Call]) -> None:
    if waiting:
        raise _refusal(
            f"messages[{caller}] calls '{waiting[0].name[:64]}', but its result does not follow. Send a message with "
            "role 'tool' and the call's tool_call_id right after it.",
            f"messages[{caller}].tool_calls",
        )


def _in_order(turns: Sequence[Turn]) -> list[Turn]:
    ordered: list[Turn] = []
    places: dict[str, int] = {}
    results: list[Turn] = []
    for turn in [*turns, Turn("user")]:
        if turn.role == "tool":
            results.append(turn)
            continue
        ordered += sorted(results, key=lambda result: places[result.call_id])
        results = []
        if turn.role == "assistant":
            places = {call.id: place for place, call in enumerate(turn.calls)}
        ordered.append(turn)
    return ordered[:-1]


def _read_content(where: str, role: Role, content: object) -> tuple[str | Thought, ...]:
    if isinstance(content, str):
        return (replace_surrogates(content),)
    if content is None and role in ("assistant", "tool"):
        return ()
    if not isinstance(content, list | tuple):
        raise _refusal(f"{where} has content of type {type(content).__name__}; expected a string or text parts.")
    return tuple(_read_part(f"{where}.content[{index}]", role, part) for index, part in enumerate(content))


def _read_part(where: str, role: Role, part: object) -> str | Thought:
    if not isinstance(part, Mapping):
        raise _refusal(f'{where} must be an object such as {{"type": "text", "text": "..."}}.')
    kind = part.get("type")
    if isinstance(kind, str) and kind in _MEDIA:
        raise _refusal(f"{where} is of type '{kind}' ({_MEDIA[kind]}), but this model takes text only.")
    if kind == "thinking" and role == "assistant":
        return Thought(_thought(where, part.get("thinking")))
    if kind == "refusal" and role == "assistant" and isinstance(part.get("refusal"), str):
        return replace_surrogates(part["refusal"])
    if kind != "text":
        raise _refusal(f"{where} has type {kind!r}; this model takes parts of type 'text' only.")
    text = part.get("text")
    if not isinstance(text, str):
        raise _refusal(f"{where} must have its text as a string in 'text'.")
    return replace_surrogates(text)


def _thought(where: str, thinking: object) -> str:
    """Mistral's chunks hold a list of text chunks; a plain string is taken too."""
    if isinstance(thinking, str):
        return replace_surrogates(thinking)
    chunks = thinking if isinstance(thinking, list | tuple) else []
    texts = [chunk.get("text") for chunk in chunks if isinstance(chunk, Mapping)]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise _refusal(f"{where}.thinking must be a list of text chunks.", f"{where}.thinking")
    return replace_surrogates("".join(str(text) for text in texts))


def _text_field(where: str, message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    if value is not None and not isinstance(value, str):
        raise _refusal(f"{where}.{name} must be a string.", f"{where}.{name}")
    return value or ""


def _name(where: str, message: Mapping[str, Any]) -> str | None:
    name = _text_field(where, message, "name")
    return replace_surrogates(name) if name else None


def _refuse_early_prefix(turns: Sequence[Turn]) -> None:
    for index, turn in enumerate(turns[:-1]):
        if turn.unfinished:
            raise _refusal(f"messages[{index}] has prefix true, which only the last message may have.")


def _place_late_system(turns: Sequence[Turn]) -> list[Turn]:
    placed: list[Turn] = []
    waiting: list[Turn] = []
    for turn in turns:
        if turn.role == "system" and (waiting or (placed and placed[-1].role in ("assistant", "tool"))):
            waiting.append(turn)
            continue
        if turn.role != "user" and waiting:
            break
        placed.append(turn)
        placed.extend(waiting)
        waiting.clear()
    if waiting:
        raise _refusal(
            "A system message after an assistant's or a tool's message needs a user message after it; the chat "
            "template has no place for it otherwise."
        )
    return placed


def _refusal(reason: str, param: str = "messages") -> InvalidRequestError:
    return InvalidRequestError(reason, param=param)
