"""Which images and sounds an engine process has been given."""

from __future__ import annotations

from ostro.core.request import EngineRequest
from ostro.link.messages import Provide, Withdraw


class SharedMedia:
    """Counts the running requests that hold an input, so that it crosses once for all of them, such as the siblings of
    `n` answers, and is let go of with the last.

    most: bytes of inputs that running and waiting requests may hold together: a queue of requests whose images were
    small files would fill the memory, here and in the engine process.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._holders: dict[str, int] = {}
        self._held: dict[str, list[str]] = {}
        self._sizes: dict[str, int] = {}

    def fits(self, request: EngineRequest) -> bool:
        """Whether its inputs may be held beside those that are. Where nothing is held, every request fits."""
        sizes = {media.digest: len(media.data) for media in request.media}
        return not self._sizes or not sizes or sum((self._sizes | sizes).values()) <= self._most

    def take(self, request: EngineRequest) -> list[Provide]:
        """A request is about to be sent: what has to be sent before it."""
        if not request.media:
            return []
        needed = [Provide(media) for media in request.media if media.digest not in self._holders]
        self._held[request.request_id] = [media.digest for media in request.media]
        for media in request.media:
            self._holders[media.digest] = self._holders.get(media.digest, 0) + 1
            self._sizes[media.digest] = len(media.data)
        return needed

    def release(self, request_id: str) -> list[Withdraw]:
        """A request has ended: what the process need not keep any more."""
        done = []
        for digest in self._held.pop(request_id, ()):
            self._holders[digest] -= 1
            if not self._holders[digest]:
                del self._holders[digest], self._sizes[digest]
                done.append(Withdraw(digest))
        return done

    def clear(self) -> None:
        """The process is gone."""
        self._holders.clear()
        self._held.clear()
        self._sizes.clear()
