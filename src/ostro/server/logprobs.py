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


def completion_logprobs(
    texts: TokenTexts, entries: Sequence[TokenLogprobs] | None, offset: int
) -> CompletionLogprobs | None:
    """`offset`: characters of the answer before the first of these tokens."""
    if entries is None:
        return None
    tokens = [texts.text(entry.token_id) for entry in entries]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    wanted = any(entry.top for entry in entries)
    return CompletionLogprobs(
        tokens,
        [_finite(entry.logprob) for entry in entries],
        [_best(texts, entry) for entry in entries] if wanted else None,
        offsets,
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
