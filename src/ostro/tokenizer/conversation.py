"""OpenAI-shaped messages as a conversation that a template can express."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ostro.tokenizer.base import replace_surrogates
from ostro.tokenizer.call_ids import template_id
from ostro.tokenizer.call_results import pair_results
from ostro.tokenizer.message_content import read_content
from ostro.tokenizer.turns import Call, Part, Role, Thought, Turn, refusal

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",  # OpenAI's first name for it
}


def read_messages(messages: object, *, continue_final: bool = False, thinkers: Collection[Role] = ()) -> list[Turn]:
    """Check `messages` and put them into an order that templates know.

    An empty assistant message is left out, since it is no text in any template. A system message straight after an
    assistant's has no place in the templates and moves behind the user's message that follows it. Messages of one
    role in a row stay apart here; the template merges them. The last assistant message is continued if
    `continue_final` or its own `prefix` (as Mistral's API has it) says so. Each call has its result right after it,
    in the calls' order, under an id that templates take.
    thinkers: the roles whose thoughts have a place in the template. What an assistant thought is left out otherwise,
    as its model was taught; a system message with thoughts is refused, since it would say something else without.
    Raises InvalidRequestError (param "messages…") that names the message and the reason.
    """
    if not isinstance(messages, list | tuple):
        raise refusal("messages must be a list of objects with role and content.")
    if not messages:
        raise refusal("messages is empty; give at least one message.")
    turns = [_placed_thoughts(index, _read_message(index, one), thinkers) for index, one in enumerate(messages)]
    _refuse_early_prefix(turns)
    last = turns[-1]
    if last.role == "assistant" and not last.calls:
        if not (continue_final or last.unfinished):
            raise refusal(
                "The last message is the assistant's, so there is nothing to answer. End with a user message, or "
                'ask to continue the assistant\'s text: "prefix": true in that message.'
            )
        turns[-1] = replace(last, unfinished=True)
    elif continue_final:
        raise refusal(f"Only an assistant's text can be continued, but the last message's role is '{last.role}'.")
    turns = pair_results([_with_thoughts_closed(turn) for turn in turns])
    turns = [turn for turn in turns if turn.role != "assistant" or not turn.is_empty]
    if not turns:
        raise refusal("No message has any content; give at least one user message.")
    return _place_late_system(turns)


def _read_message(index: int, message: object) -> Turn:
    where = f"messages[{index}]"
    if not isinstance(message, Mapping):
        raise refusal(f"{where} must be an object with role and content, not {type(message).__name__}.")
    name = message.get("role")
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise refusal(f"{where} has role {repr(name)[:40]}; expected one of: {', '.join(_ROLES)}.", f"{where}.role")
    prefix = message.get("prefix")
    if prefix not in (None, False, True) or (prefix and role != "assistant"):
        raise refusal(
            f"{where}: prefix must be true or false, and true only in an assistant message.", f"{where}.prefix"
        )
    content = read_content(where, role, message.get("content"))
    if role == "assistant":
        return _assistant(where, message, content, bool(prefix))
    if message.get("tool_calls"):
        raise refusal(f"{where} has tool_calls, which only an assistant message may have.", f"{where}.tool_calls")
    if role == "tool":
        return Turn("tool", content, call_id=_text_field(where, message, "tool_call_id"), name=_name(where, message))
    return Turn(role, content)


def _placed_thoughts(index: int, turn: Turn, thinkers: Collection[Role]) -> Turn:
    if turn.role in thinkers or not any(isinstance(part, Thought) for part in turn.parts):
        return turn
    if turn.role == "system":
        raise refusal(
            f"messages[{index}] has a part of type 'thinking', for which this model's template has no place in a "
            "system message. Write it as text.",
            f"messages[{index}].content",
        )
    return replace(turn, parts=turn.texts)


def _with_thoughts_closed(turn: Turn) -> Turn:
    """Only the thought that an unfinished message ends with may be open."""
    going_on = turn.parts[-1] if turn.unfinished and turn.parts else None
    parts = (replace(p, closed=True) if isinstance(p, Thought) and p is not going_on else p for p in turn.parts)
    return replace(turn, parts=tuple(parts))


def _assistant(where: str, message: Mapping[str, Any], content: tuple[Part, ...], prefix: bool) -> Turn:
    field = "reasoning_content" if message.get("reasoning_content") else "reasoning"
    thought = message.get(field)
    if thought is not None and not isinstance(thought, str):
        raise refusal(f"{where}.{field} must be a string.", f"{where}.{field}")
    if thought and not any(isinstance(part, Thought) for part in content):
        content = (Thought(replace_surrogates(thought)), *content)
    calls = message.get("tool_calls")
    if message.get("function_call"):
        raise refusal(f"{where} has a function_call; send it as tool_calls.", f"{where}.function_call")
    if calls is not None and not isinstance(calls, list | tuple):
        raise refusal(f"{where}.tool_calls must be a list.", f"{where}.tool_calls")
    read = tuple(_read_call(f"{where}.tool_calls[{i}]", call) for i, call in enumerate(calls or ()))
    if len({call.id for call in read}) < len(read):
        raise refusal(f"{where} has two tool_calls of the same id.", f"{where}.tool_calls")
    if read and prefix:
        raise refusal(f"{where} has tool_calls, so it cannot be continued as a prefix.", f"{where}.prefix")
    return Turn("assistant", content, unfinished=prefix, calls=read)


def _read_call(where: str, call: object) -> Call:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise refusal(f'{where} must be an object such as {{"id": "…", "function": {{…}}}}.', where)
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise refusal(f"{where}.function.name must be the name of a function.", f"{where}.function.name")
    given = call.get("id")
    if given is not None and not isinstance(given, str):
        raise refusal(f"{where}.id must be a string.", f"{where}.id")
    # A call without an id gets one from its place, so that it can still be paired with its result by order.
    call_id = template_id(given) if given and given != "null" else template_id(where)
    return Call(call_id, replace_surrogates(name.strip()), _read_arguments(where, function.get("arguments")))


def _read_arguments(where: str, arguments: object) -> str:
    """JSON text of an object. Clients send it as text, some as the object itself, and nothing for no arguments.

    Models do not always write JSON. Such a call has to be told as it was, or its conversation could not go on: it is
    the text as a JSON string, which is how mistral-common writes it too.
    """
    field = f"{where}.function.arguments"
    value = arguments
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            value = arguments
        except RecursionError as error:
            raise refusal(f"{field} is nested too deeply.", field) from error
    elif arguments is None:
        value = {}
    elif not isinstance(arguments, Mapping):
        raise refusal(f"{field} must be a JSON object, or text.", field)
    try:
        return replace_surrogates(json.dumps(value, ensure_ascii=False))
    except (ValueError, TypeError, RecursionError) as error:
        raise refusal(f"{field} cannot be written as JSON: {str(error)[:80]}.", field) from error


def _text_field(where: str, message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    if value is not None and not isinstance(value, str):
        raise refusal(f"{where}.{name} must be a string.", f"{where}.{name}")
    return value or ""


def _name(where: str, message: Mapping[str, Any]) -> str | None:
    name = _text_field(where, message, "name")
    return replace_surrogates(name) if name else None


def _refuse_early_prefix(turns: Sequence[Turn]) -> None:
    for index, turn in enumerate(turns[:-1]):
        if turn.unfinished:
            raise refusal(
                f"messages[{index}] has prefix true, which only the last message may have.", f"messages[{index}].prefix"
            )


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
        raise refusal(
            "A system message after an assistant's or a tool's message needs a user message after it; the chat "
            "template has no place for it otherwise."
        )
    return placed
