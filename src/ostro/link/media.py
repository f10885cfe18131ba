"""Which images and sounds an engine process has been given."""

from __future__ import annotations

from ostro.core.request import EngineRequest
from ostro.link.messages import Provide, Withdraw


class SharedMedia:
    """Counts the running requests that hold an input, so that it crosses once for all of them, such as the siblings of
    `n` answers, and is let go of with the last."""

    def __init__(self) -> None:
        self._holders: dict[str, int] = {}
        self._held: dict[str, list[str]] = {}

    def take(self, request: EngineRequest) -> list[Provide]:
        """A request is about to be sent: what has to be sent before it."""
        if not request.media:
            return []
        needed = [Provide(media) for media in request.media if media.digest not in self._holders]
        self._held[request.request_id] = [media.digest for media in request.media]
        for media in request.media:
            self._holders[media.digest] = self._holders.get(media.digest, 0) + 1
        return needed

    def release(self, request_id: str) -> list[Withdraw]:
        """A request has ended: what the process need not keep any more."""
        done = []
        for digest in self._held.pop(request_id, ()):
            self._holders[digest] -= 1
            if not self._holders[digest]:
                del self._holders[digest]
                done.append(Withdraw(digest))
        return done

    def clear(self) -> None:
        """The process is gone."""
        self._holders.clear()
        self._held.clear()
