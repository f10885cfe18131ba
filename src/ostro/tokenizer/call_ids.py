"""Ids of tool calls, as Mistral's templates take them."""

from __future__ import annotations

import hashlib
import re
import string

_VALID = re.compile(r"[A-Za-z0-9]{9}")
_LETTERS = string.ascii_letters + string.digits


def is_template_id(text: str) -> bool:
    return _VALID.fullmatch(text) is not None


def template_id(given: str) -> str:
    """`given` where it is nine alphanumerics; otherwise nine that are always the same for it.

    A hash rather than a count, so that a conversation keeps its tokens from turn to turn and its prefix stays cached.

    >>> template_id("abcDEF123"), len(template_id("call_1")), template_id("call_1") == template_id("call_1")
    ('abcDEF123', 9, True)
    """
    if is_template_id(given):
        return given
    number = int.from_bytes(hashlib.blake2b(given.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    letters = []
    for _ in range(9):
        number, digit = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[digit])
    return "".join(letters)
