"""Stop strings in a stream of text."""

from __future__ import annotations

from collections.abc import Sequence


class StopFinder:
    """Passes text on until one of several strings is complete; that string and what follows is dropped.

    found: the string that was complete first.

    The string that is complete first ends the text; of several that end at the same character, the longest.
    So the outcome depends on the text alone, never on how it was cut. Held back is only the longest end of the
    text that may still become a stop string. Each character costs O(number of stop strings), amortised
    (Knuth, Morris, Pratt: Fast pattern matching in strings, 1977).
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises ValueError for an empty string."""
        self._stops = [(stop, _borders(stop)) for stop in stops]
        self._matched = [0] * len(stops)  # characters of each stop string that the text ends with
        self._held = ""
        self.stopped = False
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """The text that is certain now; nothing after the stop."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        pending = self._held + text
        for position in range(len(self._held), len(pending)):
            complete = self._advance(pending[position])
            if complete:
                self.stopped = True
                self.found = pending[: position + 1][-complete:]
                self._held = ""
                return pending[: position + 1 - complete]
        keep = len(pending) - max(self._matched)
        self._held = pending[keep:]
        return pending[:keep]

    def flush(self) -> str:
        """What is held back, since no more text comes."""
        held, self._held = self._held, ""
        self._matched = [0] * len(self._stops)
        return held

    def _advance(self, char: str) -> int:
        """Take one character; the length of the longest stop string that it completes, or 0."""
        complete = 0
        for index, (stop, borders) in enumerate(self._stops):
            length = self._matched[index]
            while length and stop[length] != char:
                length = borders[length - 1]
            if stop[length] == char:
                length += 1
            self._matched[index] = length
            if length == len(stop):
                complete = max(complete, length)
        return complete


def _borders(stop: str) -> list[int]:
    """For each beginning of `stop`, the length of its longest proper beginning that is also its end."""
    if not stop:
        raise ValueError("a stop string must have at least one character")
    borders = [0] * len(stop)
    length = 0
    for position in range(1, len(stop)):
        while length and stop[position] != stop[length]:
            length = borders[length - 1]
        if stop[position] == stop[length]:
            length += 1
        borders[position] = length
    return borders
