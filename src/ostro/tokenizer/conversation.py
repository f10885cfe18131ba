"""OpenAI-shaped messages as a conversation that a text template can express."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ostro.core.errors import InvalidRequestError
from ostro.tokenizer.base import replace_surrogates

Role = Literal["system", "user", "assistant"]

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
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
class Turn:
    """One message. texts: its text parts in order. unfinished: the answer goes on from here."""

    role: Role
    texts: tuple[str, ...]
    unfinished: bool = False


def read_messages(messages: object, *, continue_final: bool = False) -> list[Turn]:
    """Check `messages` and put them into an order that templates know.

    An empty assistant message is left out, since it is no text in any template. A system message straight after an
    assistant's has no place in the templates and moves behind the user's message that follows it. Messages of one
    role in a row stay apart here; the template merges them. The last assistant message is continued if
    `continue_final` or its own `prefix` (as Mistral's API has it) says so.
    Raises InvalidRequestError (param "messages") that names the message and the reason.
    """
    if not isinstance(messages, list | tuple):
        raise _refusal("messages must be a list of objects with role and content.")
    if not messages:
        raise _refusal("messages is empty; give at least one message.")
    turns = [_read_message(index, message) for index, message in enumerate(messages)]
    _refuse_early_prefix(turns)
    last = turns[-1]
    if last.role == "assistant":
        if not (continue_final or last.unfinished):
            raise _refusal(
                "The last message is the assistant's, so there is nothing to answer. End with a user message, or "
                'ask to continue the assistant\'s text: "prefix": true in that message.'
            )
        turns[-1] = Turn("assistant", last.texts, unfinished=True)
    elif continue_final:
        raise _refusal(f"Only an assistant message can be continued, but the last message's role is '{last.role}'.")
    turns = [turn for turn in turns if turn.role != "assistant" or any(turn.texts)]
    if not turns:
        raise _refusal("No message has any content; give at least one user message.")
    return _place_late_system(turns)


def _read_message(index: int, message: object) -> Turn:
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise _refusal(f"{where} must be an object with role and content, not {type(message).__name__}.")
    name = message.get("role")
    if name in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
        raise _refusal(f"{where} belongs to a tool call, which is not supported yet. Send text messages only.")
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise _refusal(f"{where} has role {name!r}; expected one of: {', '.join(_ROLES)}.")
    prefix = message.get("prefix")
    if prefix not in (None, False, True) or (prefix and role != "assistant"):
        raise _refusal(f"{where}: prefix must be true or false, and true only in an assistant message.")
    return Turn(role, _read_content(where, role, message.get("content")), unfinished=bool(prefix))


def _read_content(where: str, role: Role, content: object) -> tuple[str, ...]:
    if isinstance(content, str):
        return (replace_surrogates(content),)
    if content is None and role == "assistant":
        return ()
    if not isinstance(content, list | tuple):
        raise _refusal(f"{where} has content of type {type(content).__name__}; expected a string or text parts.")
    return tuple(_read_part(f"{where}.content[{index}]", part) for index, part in enumerate(content))


def _read_part(where: str, part: object) -> str:
    if not isinstance(part, Mapping):
        raise _refusal(f'{where} must be an object such as {{"type": "text", "text": "..."}}.')
    kind = part.get("type")
    if isinstance(kind, str) and kind in _MEDIA:
        raise _refusal(f"{where} is of type '{kind}' ({_MEDIA[kind]}), but this model takes text only.")
    if kind != "text":
        raise _refusal(f"{where} has type {kind!r}; this model takes parts of type 'text' only.")
    text = part.get("text")
    if not isinstance(text, str):
        raise _refusal(f"{where} must have its text as a string in 'text'.")
    return replace_surrogates(text)


def _refuse_early_prefix(turns: Sequence[Turn]) -> None:
    for index, turn in enumerate(turns[:-1]):
        if turn.unfinished:
            raise _refusal(f"messages[{index}] has prefix true, which only the last message may have.")


def _place_late_system(turns: Sequence[Turn]) -> list[Turn]:
    placed: list[Turn] = []
    waiting: list[Turn] = []
    for turn in turns:
        if turn.role == "system" and (waiting or (placed and placed[-1].role == "assistant")):
            waiting.append(turn)
            continue
        if turn.role != "user" and waiting:
            break
        placed.append(turn)
        placed.extend(waiting)
        waiting.clear()
    if waiting:
        raise _refusal(
            "A system message after an assistant message needs a user message after it; the chat template has no "
            "place for it otherwise."
        )
    return placed


def _refusal(reason: str) -> InvalidRequestError:
    return InvalidRequestError(reason, param="messages")
