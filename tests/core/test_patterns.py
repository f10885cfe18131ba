"""Patterns mean the same to whoever checks an answer."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostro.core.patterns import ascii_classes, ascii_schema


@pytest.mark.parametrize(
    ("pattern", "plain"),
    [
        (r"\d+", "[0-9]+"),
        (r"^\w\s$", r"^[A-Za-z0-9_][\x20\t\n\r\f\v]$"),
        (r"[\d.-]", "[0-9.-]"),
        (r"[^\d]\D", r"[^\d]\D"),
        (r"\\d", r"\\d"),
        (r"[]\d][^]\d]\d", r"[]0-9][^]\d][0-9]"),
        (r"\[\d\]", r"\[[0-9]\]"),
        ("\\", "\\"),
        ("", ""),
    ],
)
def test_classes_are_written_out(pattern: str, plain: str) -> None:
    assert ascii_classes(pattern) == plain


atoms = st.sampled_from([r"\d", r"\w", r"\s", r"\D", "a", r"[\d_]", r"[^\d]", r"\.", r"[^\w\s]", r"[\]\s]"])


@given(st.lists(atoms, max_size=4).map("".join), st.text("a1_ .²٣é]\n\u2003", max_size=5))
def test_what_matches_then_matches_python_too(pattern: str, text: str) -> None:
    plain = ascii_classes(pattern)
    if re.fullmatch(plain, text):
        assert re.fullmatch(pattern, text)
    if text.isascii():
        assert bool(re.fullmatch(plain, text)) == bool(re.fullmatch(pattern, text))


def test_schemas_keep_their_data() -> None:
    data = {"pattern": r"\d"}
    schema = {
        "properties": {"pattern": {"type": "string", "pattern": r"^\d$"}, "enum": {"pattern": r"\w"}},
        "patternProperties": {r"^\d": {"items": [{"pattern": r"\d"}]}},
        "const": data,
        "enum": [data],
        "anyOf": [{"pattern": r"\d"}],
    }
    assert ascii_schema(schema) == {
        "properties": {"pattern": {"type": "string", "pattern": "^[0-9]$"}, "enum": {"pattern": "[A-Za-z0-9_]"}},
        "patternProperties": {"^[0-9]": {"items": [{"pattern": "[0-9]"}]}},
        "const": data,
        "enum": [data],
        "anyOf": [{"pattern": "[0-9]"}],
    }
    assert ascii_schema(True) is True
