"""Tokens of an answer to its parts."""

from __future__ import annotations

from collections.abc import Sequence

from ostro.tokenizer.answers import Parsed, Part, Text
from ostro.tokenizer.base import Tokenizer
from ostro.tokenizer.detokenizer import Detokenizer


class AnswerParser:
    """One answer's parts, piece by piece."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        min_tokens: int = 0,  # noqa: ARG002
        continuation: bool = False,
        tools: bool = True,  # noqa: ARG002
    ) -> None:
        self._text = Detokenizer(tokenizer, stop, continuation=continuation)

    def push(self, token_ids: Sequence[int]) -> Parsed:
        text, stopped, consumed = self._text.push(token_ids)
        return Parsed([Text(text)] if text else [], stopped, consumed, 0)

    def finish(self) -> list[Part]:
        text = self._text.finish()
        return [Text(text)] if text else []
