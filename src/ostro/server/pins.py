"""Models stay loaded for as long as requests use them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ostro.server.pool import Pool
from ostro.server.slot import Slot

_KEY = "model_pins"


class Pins:
    """The models that one request holds."""

    def __init__(self) -> None:
        self._held: list[tuple[Pool, Slot]] = []

    def __contains__(self, name: str) -> bool:
        return any(slot.name == name for _, slot in self._held)

    def add_now(self, pool: Pool, slot: Slot) -> bool:
        """Pin a model that is loaded; False where it has to be waited for."""
        pinned = pool.pin_now(slot)
        if pinned:
            self._held.append((pool, slot))
        return pinned

    async def add(self, pool: Pool, slot: Slot) -> None:
        """Wait for a model and pin it. The pin is noted with nothing in between that could be cancelled."""
        await pool.pin(slot)
        self._held.append((pool, slot))

    def release(self) -> None:
        while self._held:
            pool, slot = self._held.pop()
            pool.unpin(slot)


class ReleasePins:
    """Plain ASGI. Gives back what a request held when its answer is over: sent, failed or left by its client."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        pins = scope.setdefault("state", {})[_KEY] = Pins()
        try:
            await self.app(scope, receive, send)
        finally:
            pins.release()


def pins_of(request: Request) -> Pins:
    """What this request holds; the application has `ReleasePins` among its layers."""
    pins = request.scope["state"][_KEY]
    assert isinstance(pins, Pins)
    return pins
