"""Patterns of layers' names, matched in a time that no pattern can blow up.

A config comes from strangers, and `re` tries the ways to match one after the other: of `(.+)+#` there are exponentially
many. Here all ways are followed at once, as the set of places in the name where they have arrived (Thompson 1968), bits
of an integer. `re` still reads what has a fixed length: literals, classes, anchors.

What cannot be followed so (references to groups, what lies behind) is refused, as are flags.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ostro.core.errors import ConfigError

MAX_LENGTH = 1000
MAX_DEPTH = 20
# Of one pattern over one name; patterns that makers write take some hundred.
MAX_STEPS = 20_000

_EDGE = r"[\^$]|\\[AbBZ]"
# A bracket that closes right away is one of the class.
_CHARACTER = r"\\[dDsSwW]|\\[^A-Za-z0-9]|\[\^?+\]?+(?:\\.|[^\]\\])*+\]|[^\\()\[{*+?|^$]"
_REPEAT = r"[*+?]|\{\d+(?:,\d*)?\}|\{,\d+\}"
_ATOM = rf"(?:{_EDGE}|{_CHARACTER})"
_TOKEN = re.compile(
    # What is repeated stands alone.
    rf"(?P<piece>(?:{_ATOM}(?![*+?{{]))+|{_ATOM})|(?P<repeat>{_REPEAT})\??"
    r"|(?P<open>\((?:\?(?:[:=!]|P<\w+>))?)|(?P<close>\))|(?P<bar>\|)",
    re.DOTALL,
)


@dataclass(frozen=True, eq=False)
class _Piece:
    """Characters and anchors of a fixed length. text: looks ahead, so that a match is found at every place."""

    text: re.Pattern[str]
    length: int


@dataclass(frozen=True, eq=False)
class _Look:
    inner: _Node
    wanted: bool


@dataclass(frozen=True, eq=False)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True, eq=False)
class _Choice:
    options: tuple[_Node, ...]


@dataclass(frozen=True, eq=False)
class _Repeat:
    inner: _Node
    least: int
    most: int | None


_Node = _Piece | _Look | _Sequence | _Choice | _Repeat


class Pattern:
    """A regular expression. Raises ConfigError for what is none, or is refused."""

    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) > MAX_LENGTH:
            raise _refused(text, f"it has {len(text)} characters, at most {MAX_LENGTH} make sense")
        self._tokens = _tokens(text)
        self._at = 0
        self._root = self._choice(0)
        if self._at < len(self._tokens):
            raise _refused(text, "it closes a group that it does not open")

    def matches(self, name: str) -> bool:
        """Whether the name begins with what the pattern describes, as `re.match` says it."""
        return bool(_Run(self._text, name).arrive(self._root, 1))

    def _choice(self, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise _refused(self._text, f"groups lie in more than {MAX_DEPTH} others")
        options = [self._sequence(depth)]
        while self._take("bar"):
            options.append(self._sequence(depth))
        return options[0] if len(options) == 1 else _Choice(tuple(options))

    def _sequence(self, depth: int) -> _Node:
        parts: list[_Node] = []
        repeatable = False
        while self._at < len(self._tokens):
            kind, text = self._tokens[self._at]
            if kind in ("bar", "close"):
                break
            self._at += 1
            if kind == "piece":
                parts.append(self._piece(text))
            elif kind == "open":
                parts.append(self._group(text, depth))
            elif repeatable:
                parts.append(self._repeat(parts.pop(), text))
            else:
                raise _refused(self._text, f"{text!r} has nothing to repeat")
            repeatable = kind != "repeat"
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def _group(self, opening: str, depth: int) -> _Node:
        inner = self._choice(depth + 1)
        if not self._take("close"):
            raise _refused(self._text, "a group is not closed")
        return _Look(inner, opening.endswith("=")) if opening in ("(?=", "(?!") else inner

    def _repeat(self, inner: _Node, text: str) -> _Node:
        text = {"*": "{0,}", "+": "{1,}", "?": "{0,1}"}.get(text, text)
        low, comma, high = text[1:-1].partition(",")
        least = int(low or 0)
        most = int(high) if high else None if comma else least
        if most is not None and most < least:
            raise _refused(self._text, f"{text!r} ends before it begins")
        return _Repeat(inner, least, most)

    def _piece(self, text: str) -> _Piece:
        try:
            compiled = re.compile(f"(?={text})")
        except re.error as error:
            raise _refused(self._text, f"of {text!r}, {error}") from error
        edges = sum(bool(re.fullmatch(_EDGE, atom)) for atom in re.findall(_ATOM, text, re.DOTALL))
        return _Piece(compiled, len(re.findall(_ATOM, text, re.DOTALL)) - edges)

    def _take(self, kind: str) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at][0] == kind
        self._at += found
        return found


class _Run:
    """One pattern over one name."""

    def __init__(self, text: str, name: str) -> None:
        self._text, self._name = text, name
        self._steps = 0
        self._fits: dict[_Piece, int] = {}

    def arrive(self, node: _Node, places: int) -> int:
        """Where one is after `node`, from any of these places: a bit each, the lowest for the name's beginning."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise _refused(self._text, f"following it through {self._name!r} takes more than {MAX_STEPS} steps")
        match node:
            case _Piece():
                return (places & self._where(node)) << node.length
            case _Look():
                met = (place for place in _bits(places) if bool(self.arrive(node.inner, place)) == node.wanted)
                return sum(met)
            case _Sequence():
                for part in node.parts:
                    places = self.arrive(part, places) if places else 0
                return places
            case _Choice():
                reached = 0
                for option in node.options:
                    reached |= self.arrive(option, places)
                return reached
            case _Repeat():
                return self._repeated(node, places)

    def _repeated(self, node: _Repeat, places: int) -> int:
        # A way that goes on for longer than there are places stays at one of them, and can for ever.
        enough = len(self._name) + 1
        for _ in range(min(node.least, enough)):
            places = self.arrive(node.inner, places) if places else 0
        reached = places
        for _ in range(enough if node.most is None else min(node.most - node.least, enough)):
            places = self.arrive(node.inner, places) & ~reached
            if not places:
                break
            reached |= places
        return reached

    def _where(self, piece: _Piece) -> int:
        """The places where a piece fits."""
        if piece not in self._fits:
            self._fits[piece] = sum(1 << found.start() for found in piece.text.finditer(self._name))
        return self._fits[piece]


def _bits(places: int) -> Iterator[int]:
    while places:
        lowest = places & -places
        yield lowest
        places ^= lowest


def _tokens(text: str) -> list[tuple[str, str]]:
    """(kind, text) of each; of a repeat without the sign that it is lazy, which makes no difference here."""
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise _refused(text, f"{text[at : at + 10]!r} is not understood")
        assert token.lastgroup is not None
        found.append((token.lastgroup, token.group(token.lastgroup)))
        at = token.end()
    return found


def _refused(text: str, why: str) -> ConfigError:
    shown = text if len(text) <= 100 else f"{text[:100]}…"
    return ConfigError(
        f"The quantization_config of the checkpoint has the pattern {shown!r}, which is no regular expression that is "
        f"supported: {why}. Literals, classes, groups, choices, repeats, anchors and lookaheads are; write it with "
        "these, or name the layers.",
        param="quantization_config",
    )
