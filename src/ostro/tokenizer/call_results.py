"""Results of tool calls, brought together with the calls that they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ostro.tokenizer.call_ids import template_id
from ostro.tokenizer.turns import Call, Turn, refusal


def pair_results(turns: Sequence[Turn]) -> list[Turn]:
    """Each run of results right behind the calls that it answers, complete and in their order."""
    paired: list[Turn] = []
    waiting: list[Call] = []
    caller = 0
    for index, turn in enumerate(turns):
        if turn.role == "tool":
            if not waiting:
                raise refusal(
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
        raise refusal(
            f"messages[{index}] answers the call {turn.call_id[:64]!r}, which is not one that waits (of {ids}). Its "
            "tool_call_id has to be that of a call in the assistant message before it, each answered once.",
            f"messages[{index}].tool_call_id",
        )
    waiting.remove(found[0])
    return replace(turn, call_id=found[0].id, name=turn.name or found[0].name)


def _refuse_unanswered(caller: int, waiting: Sequence[Call]) -> None:
    if waiting:
        raise refusal(
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
