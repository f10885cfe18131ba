"""Token ids to text while they come: whole characters, and stop strings across token borders."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import NamedTuple

from ostro.tokenizer.base import Tokenizer
from ostro.tokenizer.stops import StopFinder


class Piece(NamedTuple):
    """What one push added.

    text: new text, whole characters only. stopped: a stop string is complete, the text has ended.
    consumed: how many of the pushed ids are part of the answer, the one that completed the stop string included.
    """

    text: str
    stopped: bool
    consumed: int


class Detokenizer:
    """One answer's text, piece by piece.

    The joined pieces and `finish()` are `tokenizer.decode` of all ids, cut before the stop string that is complete
    first. A push costs O(new tokens), whatever came before. Control tokens are no text.

    stop: strings that end the text and are not part of it; each has at least one character (ValueError).
    min_tokens: a stop string does not count while it comes with the first so many tokens.
    continuation: the text goes on from the prompt's (a completion, a continued message), so that a SentencePiece
    space at its beginning is kept; without it the text begins anew, as a chat answer does.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, min_tokens: int = 0, continuation: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopFinder(stop) if stop else None
        self._begun = continuation
        self._unwatched = min_tokens

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return None if self._stops is None else self._stops.found

    def push(self, token_ids: Sequence[int]) -> Piece:
        """Add ids in order. After a stop nothing is taken any more."""
        if self._stops is None:
            return Piece(self._decode(token_ids), False, len(token_ids))
        texts: list[str] = []
        consumed = 0
        for token_id in token_ids:
            if self._stops.stopped:
                break
            text = self._decode((token_id,))
            if self._unwatched:
                self._unwatched -= 1
            else:
                text = self._stops.feed(text)
            texts.append(text)
            consumed += 1
        return Piece("".join(texts), self._stops.stopped, consumed)

    def finish(self) -> str:
        """The rest: text held back for a stop string, and an unfinished character as U+FFFD. Empty after a stop."""
        rest = self._decoder.decode(b"", final=True)
        if self._stops is None:
            return rest
        rest = self._stops.feed(rest)
        return rest if self._stops.stopped else rest + self._stops.flush()

    def _decode(self, token_ids: Sequence[int]) -> str:
        """The whole characters that are complete with these ids."""
        tokenizer = self._tokenizer
        parts: list[bytes] = []
        for token_id in token_ids:
            if not tokenizer.contributes(token_id):
                continue
            parts.append(tokenizer.token_bytes(token_id) if self._begun else tokenizer.leading_bytes(token_id))
            self._begun = True
        return self._decoder.decode(b"".join(parts))
