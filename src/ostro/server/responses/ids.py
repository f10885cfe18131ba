"""Ids of answers and of their items: an item's says which answer it is part of."""

from __future__ import annotations

import re
import secrets

_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}
_ITEM = re.compile(r"[a-z]{2,3}_([0-9a-f]{24})[io]\d{1,6}")


def new_response_id() -> str:
    """`resp_` and 96 random bits."""
    return f"resp_{secrets.token_hex(12)}"


def item_id(response_id: str, kind: str, number: int, *, given: bool = False) -> str:
    """The id of an answer's item. given: it is one of its input.

    >>> item_id("resp_00112233445566778899aabb", "message", 2)
    'msg_00112233445566778899aabbo2'
    """
    return f"{_PREFIXES[kind]}_{response_id.removeprefix('resp_')}{'i' if given else 'o'}{number}"


def response_of(item: str) -> str | None:
    """The answer that an item's id belongs to; None for ids of another make.

    >>> response_of("msg_00112233445566778899aabbo2")
    'resp_00112233445566778899aabb'
    """
    found = _ITEM.fullmatch(item)
    return None if found is None else f"resp_{found.group(1)}"
