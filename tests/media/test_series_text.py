"""Files of numbers as series."""

from __future__ import annotations

import pytest

from ostro.core.errors import InvalidRequestError
from ostro.media.series_text import parse_series
from series_texts import READ, REFUSED


@pytest.mark.parametrize("name", READ)
def test_numbers_are_read(name: str) -> None:
    text, values = READ[name]
    assert parse_series(text, "a.csv") == values


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_unclear_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"a\.csv"):
        parse_series(REFUSED[name], "a.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1\n2 3\n", "line 2 has 2 numbers or columns. One series is one column, or one line"),
        ("1\ntwo\n", "'two' in line 2 is no number"),
        ("[1, 2", "begins like JSON and is none"),
        ("[1, true]", r"\[1\] must be a number, not bool"),
        ("1\n1e999", r"\[1\] must be a finite number"),
        ("", "is empty; a series is numbers, one a line"),
    ],
)
def test_errors_say_where_and_what(text: str, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        parse_series(text, "a.csv")
