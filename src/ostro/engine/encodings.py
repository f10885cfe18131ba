"""What the scheduler knows of images and sounds: which are encoded, which are being encoded, which are let go of."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from ostro.core.media import MediaInput, MediaSpan
from ostro.engine.sequence import Sequence


class Encodings:
    """Outputs of encoders in a cache of so many bytes, the least recently needed of them let go of first.

    An output is kept while a running sequence has still to read it, if there is room. Beyond the capacity each running
    sequence can hold one, the one that it reads: otherwise sequences could wait for each other's room.
    token_bytes: what one row of an output takes.
    """

    def __init__(self, capacity: int, token_bytes: int) -> None:
        self._capacity = capacity
        self._token_bytes = token_bytes
        self._ready: OrderedDict[str, int] = OrderedDict()
        self._pending: dict[str, int] = {}
        self.queries = 0
        self.hits = 0

    @property
    def pending(self) -> bool:
        """Whether an encoder has work."""
        return bool(self._pending)

    @property
    def used(self) -> int:
        """Bytes that are held, or will be."""
        return sum(self._ready.values()) + sum(self._pending.values())

    def limit(self, sequence: Sequence) -> int:
        """How many leading tokens of a sequence can be run now: up to the first input that is not encoded."""
        for span in _left(sequence):
            if span.digest not in self._ready:
                return max(sequence.computed, span.start)
        return len(sequence.tokens)

    def count(self, sequence: Sequence) -> None:
        """Note how many of a starting sequence's inputs need no encoder."""
        needed = {span.digest for span in _left(sequence)}
        self.queries += len(sequence.request.media)
        self.hits += sum(one.digest not in needed or one.digest in self._ready for one in sequence.request.media)

    def plan(self, sequences: Iterable[Sequence], read: set[str]) -> tuple[list[MediaInput], list[str]]:
        """What to encode from now on, and what to forget, for running sequences in their order. read: what this step
        reads, which is not forgotten in it."""
        sequences = list(sequences)
        needed = {span.digest for sequence in sequences for span in _left(sequence)}
        forgotten = [digest for digest in self._pending if digest not in needed]
        for digest in forgotten:
            del self._pending[digest]
        for digest in needed & self._ready.keys():
            self._ready.move_to_end(digest)
        begun: list[MediaInput] = []
        blocking = None if self._pending else self._blocking(sequences)
        reading = read | {span.digest for sequence in sequences for span in _left(sequence)[:1]}
        for media in self._missing(sequences):
            size = media.tokens * self._token_bytes
            forgotten += self._make_room(size, reading if media.digest == blocking else needed)
            if self.used + size > self._capacity and media.digest != blocking:
                break
            self._pending[media.digest] = size
            begun.append(media)
        return begun, forgotten

    def done(self, digests: Iterable[str]) -> None:
        """An encoder has finished these."""
        for digest in digests:
            if digest in self._pending:
                self._ready[digest] = self._pending.pop(digest)

    def forget(self, digest: str) -> None:
        """What could not be encoded."""
        self._pending.pop(digest, None)
        self._ready.pop(digest, None)

    def needing(self, digest: str, sequences: Iterable[Sequence]) -> list[Sequence]:
        """Those that cannot go on without this input."""
        return [one for one in sequences if any(span.digest == digest for span in _left(one))]

    def _blocking(self, sequences: Iterable[Sequence]) -> str | None:
        """The input that the first sequence which stands still waits for."""
        for sequence in sequences:
            for span in _left(sequence)[:1]:
                if span.start <= sequence.computed and span.digest not in self._ready:
                    return span.digest
        return None

    def _missing(self, sequences: Iterable[Sequence]) -> Iterator[MediaInput]:
        """Inputs that nobody encodes yet, in the order in which they are needed."""
        for sequence in sequences:
            inputs = {one.digest: one for one in sequence.request.media}
            for digest in dict.fromkeys(span.digest for span in _left(sequence)):
                if digest not in self._ready and digest not in self._pending:
                    yield inputs[digest]

    def _make_room(self, size: int, keep: set[str]) -> list[str]:
        forgotten = []
        for digest in list(self._ready):
            if self.used + size <= self._capacity:
                break
            if digest not in keep:
                del self._ready[digest]
                forgotten.append(digest)
        return forgotten


def _left(sequence: Sequence) -> list[MediaSpan]:
    """The spans that a sequence has still to read."""
    spans = sequence.request.spans
    if not spans or spans[-1].stop <= sequence.computed:
        return []
    return spans[bisect_right(spans, sequence.computed, key=lambda span: span.stop) :]
