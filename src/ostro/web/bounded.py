"""Types of request fields that may be large: what is wrong with them is told by the first thing that is.

Validation otherwise gathers an error for each wrong item, and for each type that an item might have had: a megabyte of
them takes seconds and a gigabyte.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

T = TypeVar("T")

MAX_IDS = 1_000_000

Many = Annotated[list[T], Field(fail_fast=True)]
# Token ids. No context holds more of them.
Ids = Annotated[list[int], Field(fail_fast=True, max_length=MAX_IDS)]


def _refuse_wrong_number(given: Any) -> Any:
    if isinstance(given, dict):
        for key, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                shown = {"key": str(key)[:40]}
                raise PydanticCustomError("float_type", "Input should be a valid number at key '{key}'", shown)
    return given


Numbers = Annotated[dict[str, float], BeforeValidator(_refuse_wrong_number)]


def _refuse_infinite(given: Any) -> Any:
    waiting = [given]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise PydanticCustomError("finite_number", "Input should hold finite numbers only, as JSON has no others")
    return given


# An object that is kept, or sent on, as JSON.
JsonObject = Annotated[dict[str, Any], AfterValidator(_refuse_infinite)]


def at_most(most: int) -> BeforeValidator:
    """For an object: its size is looked at before its values are."""

    def check(given: Any) -> Any:
        if isinstance(given, dict) and len(given) > most:
            counts = {"most": most, "count": len(given)}
            raise PydanticCustomError("too_long", "Object should have at most {most} keys, not {count}", counts)
        return given

    return BeforeValidator(check)
