"""Series of numbers from files that people have: CSV exports with one column, lists, JSON."""

from __future__ import annotations

import json
import re

from ostro.core.errors import InvalidRequestError
from ostro.media.series import check_series

_BETWEEN = re.compile(r"\s*[,;\t]\s*|\s+")
# As JSON and spreadsheets write numbers; no "nan", "inf" or "1_000", which `float` would take.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def parse_series(text: str, where: str) -> list[float]:
    """Numbers of a text, in order: one a line, the first of which may be a heading; or all in one line, with commas,
    semicolons or spaces between; or JSON, a list or `{"values": [...]}`.

    where: the file, for errors. Raises InvalidRequestError for anything else, several columns included: which of them
    was meant is not guessed.
    """
    text = text.lstrip("\ufeff").strip()
    if text.startswith(("[", "{")):
        return _json(text, where)
    lines = [(number, _cells(line)) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise InvalidRequestError(f"{where} is empty; a series is numbers, one a line.")
    if len(lines) > 1:
        for at, (number, cells) in enumerate(lines):
            if len(cells) > 1 and (at or _is_number(cells[0])):
                raise InvalidRequestError(
                    f"{where}: line {number} has {len(cells)} numbers or columns. One series is one column, or one "
                    "line."
                )
        if not _is_number(lines[0][1][0]):
            del lines[0]
    values = []
    for number, cells in lines:
        for cell in cells:
            if not _is_number(cell):
                raise InvalidRequestError(f"{where}: '{cell[:40]}' in line {number} is no number.")
            values.append(float(cell))
    check_series(values, where)
    return values


def _json(text: str, where: str) -> list[float]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidRequestError(f"{where} begins like JSON and is none: {error}.") from None
    if isinstance(found, dict):
        found = found.get("values")
    return [float(value) for value in check_series(found, where)]


def _cells(line: str) -> list[str]:
    """Without the quotes that spreadsheets put around cells, and without an empty cell at the end."""
    cells = [cell.strip("\"'") for cell in _BETWEEN.split(line.strip())]
    return cells[:-1] if len(cells) > 1 and not cells[-1] else cells


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None
