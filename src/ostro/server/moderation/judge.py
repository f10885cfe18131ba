"""How a text scores in each category, by rules."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from dataclasses import dataclass

from ostro.server.moderation import pii
from ostro.server.moderation.categories import ALL, PII, THRESHOLD
from ostro.server.moderation.rules import REACH, RULES, Rule

MODEL = "ostro-rules"

# Characters that are looked at in one go: about a millisecond.
_PIECE = 8_000
_LONGEST_WORD = 200
# How far a pattern looks beyond what it matches, to see that nothing harmless follows.
_AHEAD = 80

_WORD = re.compile(r"[a-z0-9]+")
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))
_PLAIN_QUOTES = str.maketrans("\u2018\u2019\u02bc\u0060\u00b4", "'" * 5)


@dataclass(frozen=True)
class Judgement:
    """scores: by category, in [0, 1]: how sure the rules that matched make it. Not a probability."""

    scores: dict[str, float]

    @property
    def categories(self) -> dict[str, bool]:
        return {name: score >= THRESHOLD for name, score in self.scores.items()}

    @property
    def flagged(self) -> bool:
        return any(self.categories.values())


async def judge(text: str) -> Judgement:
    """Judge a text of any length; other tasks run in between.

    Rules that match add up: a category's score is 1 - Π(1 - weight) over them, each counted once.
    """
    rules: set[Rule] = set()
    data: dict[str, float] = {}
    start = 0
    while True:
        end = _word_behind(text, start + _PIECE + REACH + _AHEAD)
        piece = _plain(text[_word_before(text, start) : end])
        rules |= _matching(piece.lower(), len(piece) if end == len(text) else len(piece) - _AHEAD)
        data |= pii.found(piece)
        await asyncio.sleep(0)  # behind every text, however short: there may be thousands of them
        start += _PIECE
        if start >= len(text):
            return Judgement(_scores(rules, data))


def _word_before(text: str, at: int) -> int:
    """Where the word begins that a cut at `at` would go through: the half of one may be another."""
    least = max(0, at - _LONGEST_WORD)
    while at > least and not text[at - 1].isspace():
        at -= 1
    return at


def _word_behind(text: str, at: int) -> int:
    """Where that word ends, or the text."""
    most = min(len(text), at + _LONGEST_WORD)
    while at < most and not text[at].isspace():
        at += 1
    return min(at, most)


def _plain(text: str) -> str:
    """One spelling for what looks the same: compatibility forms, quotes, characters that cannot be seen."""
    return unicodedata.normalize("NFKC", text.translate(_UNSEEN)).translate(_PLAIN_QUOTES)


def _matching(text: str, until: int) -> set[Rule]:
    """Rules with a match that ends before `until`: what ends behind it, the next piece shows with what follows."""
    words = set(_WORD.findall(text))
    return {rule for rule in RULES if rule.needs & words and _matches(rule, text, until)}


def _matches(rule: Rule, text: str, until: int) -> bool:
    return any(match.end() <= until for match in rule.pattern.finditer(text))


def _scores(rules: set[Rule], data: dict[str, float]) -> dict[str, float]:
    doubts = dict.fromkeys(ALL, 1.0)
    for rule in rules:
        for name in {rule.category, *rule.also}:
            doubts[name] *= 1.0 - rule.weight
    for weight in data.values():
        doubts[PII] *= 1.0 - weight
    return {name: round(1.0 - doubt, 4) for name, doubt in doubts.items()}
