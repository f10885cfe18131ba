"""Blocks of KV cache of one group: who holds them, what they contain, which may be reused."""

from __future__ import annotations

from collections import OrderedDict

NULL_BLOCK = 0


class BlockPool:
    """Reference-counted blocks 1 .. num_blocks - 1; block 0 is nobody's, it fills tables where nothing is kept.

    A block whose last holder lets go stays findable by its digest until it is taken for something else, the one
    released longest ago first.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._references = [0] * num_blocks
        self._digest: list[bytes | None] = [None] * num_blocks
        self._by_digest: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_blocks))

    @property
    def available(self) -> int:
        """Blocks that can be taken, reusable ones among them."""
        return len(self._free)

    @property
    def capacity(self) -> int:
        return self.num_blocks - 1

    def take(self) -> int:
        """A block with no content. The caller has checked `available`."""
        block, _ = self._free.popitem(last=False)
        self._forget(block)
        self._references[block] = 1
        return block

    def find(self, digest: bytes) -> int | None:
        return self._by_digest.get(digest)

    def is_free(self, block: int) -> bool:
        return self._references[block] == 0

    def hold(self, block: int) -> None:
        """One more holder of a block found by its digest."""
        if self._references[block] == 0:
            del self._free[block]
        self._references[block] += 1

    def release(self, block: int) -> None:
        assert self._references[block] > 0, f"block {block} is held by nobody"
        self._references[block] -= 1
        if self._references[block]:
            return
        self._free[block] = None
        if self._digest[block] is None:
            # Nothing to find in it: it goes before blocks that may be reused.
            self._free.move_to_end(block, last=False)

    def label(self, block: int, digest: bytes) -> None:
        """The block now holds this content. Where another one already does, that one stays the findable one."""
        if self._digest[block] is None and digest not in self._by_digest:
            self._digest[block] = digest
            self._by_digest[digest] = block

    def clear(self) -> None:
        """Forget all content that nobody holds."""
        for block in self._free:
            self._forget(block)

    def _forget(self, block: int) -> None:
        digest = self._digest[block]
        if digest is not None:
            del self._by_digest[digest]
            self._digest[block] = None

    def check(self, held: dict[int, int]) -> None:
        """Assert that `held` (block -> holders) is exactly what the pool believes. For tests."""
        for block in range(1, self.num_blocks):
            assert self._references[block] == held.get(block, 0), f"block {block}"
            assert (block in self._free) == (self._references[block] == 0)
        assert NULL_BLOCK not in self._free
        for digest, block in self._by_digest.items():
            assert self._digest[block] == digest
