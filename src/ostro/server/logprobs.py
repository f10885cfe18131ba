"""Log-probabilities in the shapes of both endpoints."""

from __future__ import annotations

from collections.abc import Sequence

from ostro.core.request import TokenLogprobs
from ostro.tokenizer.base import Tokenizer
from ostro.web.chat import ChatLogprob, ChatLogprobs, TopLogprob
from ostro.web.completions import CompletionLogprobs

_FLOOR = -9999.0  # OpenAI's figure for "impossible"; JSON has no minus infinity


class TokenTexts:
    """Tokens as text. Without a tokenizer they are named by their ids."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer

    def bytes_of(self, token_id: int) -> bytes | None:
        return None if self._tokenizer is None else self._tokenizer.token_bytes(token_id)

    def text(self, token_id: int) -> str:
        """Readable, and different for different bytes: OpenAI's `bytes:\\xe2\\x82` for a part of a character."""
        raw = self.bytes_of(token_id)
        if raw is None:
            return f"token_id:{token_id}"
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def width(self, token_id: int) -> int:
        """Characters that the token adds to a text, where it holds whole ones; control tokens add none."""
        if self._tokenizer is not None and self._tokenizer.is_special(token_id):
            return 0
        return len(self.text(token_id))


def chat_logprobs(texts: TokenTexts, entries: Sequence[TokenLogprobs] | None) -> ChatLogprobs | None:
    if entries is None:
        return None
    return ChatLogprobs(
        [
            ChatLogprob(
                texts.text(entry.token_id),
                _finite(entry.logprob),
                _byte_list(texts, entry.token_id),
                [
                    TopLogprob(texts.text(token), _finite(logprob), _byte_list(texts, token))
                    for token, logprob in entry.top
                ],
            )
            for entry in entries
        ]
    )


class CompletionLogprobsWriter:
    """Writes one completion's log-probabilities, piece by piece: it keeps count of the text that went before.

    An echoed prompt comes first, by `prompt`: its ids, and an entry each.
    """

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._offset = 0

    def prompt(self, token_ids: Sequence[int], entries: Sequence[TokenLogprobs | None]) -> CompletionLogprobs:
        return self._write(token_ids, entries)

    def answer(self, entries: Sequence[TokenLogprobs] | None) -> CompletionLogprobs | None:
        return None if entries is None else self._write([entry.token_id for entry in entries], entries)

    def skip(self, text: str) -> None:
        """Text that stands before without log-probabilities of its own."""
        self._offset += len(text)

    def _write(self, token_ids: Sequence[int], entries: Sequence[TokenLogprobs | None]) -> CompletionLogprobs:
        offsets = []
        for token_id in token_ids:
            offsets.append(self._offset)
            self._offset += self._texts.width(token_id)
        wanted = any(entry is not None and entry.top for entry in entries)
        return CompletionLogprobs(
            [self._texts.text(token_id) for token_id in token_ids],
            [None if entry is None else _finite(entry.logprob) for entry in entries],
            [None if entry is None else _best(self._texts, entry) for entry in entries] if wanted else None,
            offsets,
        )


def joined(first: CompletionLogprobs, second: CompletionLogprobs | None) -> CompletionLogprobs:
    if second is None:
        return first
    top = None
    if first.top_logprobs is not None or second.top_logprobs is not None:
        top = [
            *(first.top_logprobs or [None] * len(first.tokens)),
            *(second.top_logprobs or [None] * len(second.tokens)),
        ]
    return CompletionLogprobs(
        first.tokens + second.tokens,
        first.token_logprobs + second.token_logprobs,
        top,
        first.text_offset + second.text_offset,
    )


def _best(texts: TokenTexts, entry: TokenLogprobs) -> dict[str, float]:
    """The likeliest tokens, and the chosen one where it is not among them, as OpenAI answers."""
    best: dict[str, float] = {}
    for token, logprob in [*entry.top, (entry.token_id, entry.logprob)]:
        best.setdefault(texts.text(token), _finite(logprob))
    return best


def _byte_list(texts: TokenTexts, token_id: int) -> list[int] | None:
    raw = texts.bytes_of(token_id)
    return None if raw is None else list(raw)


def _finite(logprob: float) -> float:
    return max(logprob, _FLOOR)
