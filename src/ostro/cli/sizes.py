"""Amounts of memory on the command line."""

from __future__ import annotations

import re

import typer

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_size(text: str | None) -> int | None:
    """Bytes of "2GiB", "500M" or "1073741824". Raises typer.BadParameter.

    >>> parse_size("1.5GiB"), parse_size("500MB"), parse_size(None)
    (1610612736, 500000000, None)
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?)?b?", text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise typer.BadParameter(f"{text!r} is not an amount of memory; write it as 2GiB, 500MB or in bytes.")
    return int(float(match[1]) * _UNITS[match[2] or ""])
