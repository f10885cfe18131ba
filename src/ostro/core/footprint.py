"""How much memory a model is expected to take, told before it is loaded."""

from __future__ import annotations

import msgspec


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one engine process, on the device that its model runs on.

    weights: as they are held after loading. kv: the cache, as large as it may become. overhead: the process itself.
    """

    weights: int
    kv: int
    overhead: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.overhead


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine can hold, and what models would take there: one footprint a model, in the order asked for.

    device: the kind of device that the models run on. available: its free bytes. budget: bytes that the models may
    take together.
    """

    device: str
    available: int
    budget: int
    footprints: list[Footprint]
