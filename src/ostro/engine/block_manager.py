"""Which blocks a sequence has in each cache group: prefix reuse, growth, windows, release."""

from __future__ import annotations

from ostro.engine.block_pool import NULL_BLOCK, BlockPool
from ostro.engine.sequence import Sequence


class BlockManager:
    """One pool a cache group. `windows` has one entry a group: 0 keeps everything, w the last w positions.

    A windowed group gives blocks back as soon as no later position can see them, and needs only the blocks inside
    the window for a prefix to be reused.
    """

    def __init__(self, windows: tuple[int, ...], num_blocks: int, block_size: int, prefix_caching: bool) -> None:
        self.windows = windows
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.pools = tuple(BlockPool(num_blocks) for _ in windows)

    @property
    def usage(self) -> float:
        """Share of blocks that are held, of the fullest group."""
        return max(1 - pool.available / pool.capacity for pool in self.pools)

    def match(self, sequence: Sequence) -> int:
        """Take hold of the longest cached prefix; returns its length in tokens. The sequence holds nothing yet.

        At least one token is left to compute: its logits are wanted.
        """
        if not self.prefix_caching or sequence.reads_whole_prompt:
            return 0
        blocks = self._matching(sequence)
        first = [self._first_needed(window, blocks * self.block_size) for window in self.windows]
        for group, pool in enumerate(self.pools):
            table = sequence.tables[group]
            assert not table
            for index in range(blocks):
                if index < first[group]:
                    table.append(NULL_BLOCK)
                    continue
                block = pool.find(sequence.digest(index, self.block_size))
                assert block is not None
                pool.hold(block)
                table.append(block)
        sequence.computed = sequence.committed = blocks * self.block_size
        return sequence.computed

    def _matching(self, sequence: Sequence) -> int:
        """The most leading blocks that every group can serve."""
        most = (len(sequence.tokens) - 1) // self.block_size
        for window, pool in zip(self.windows, self.pools, strict=True):
            if not window:
                most = self._leading(pool, sequence, most)
        while most and not all(
            self._covered(pool, sequence, self._first_needed(window, most * self.block_size), most)
            for window, pool in zip(self.windows, self.pools, strict=True)
            if window
        ):
            most -= 1
        return most

    def _leading(self, pool: BlockPool, sequence: Sequence, most: int) -> int:
        for index in range(most):
            if pool.find(sequence.digest(index, self.block_size)) is None:
                return index
        return most

    def _covered(self, pool: BlockPool, sequence: Sequence, first: int, stop: int) -> bool:
        return all(pool.find(sequence.digest(i, self.block_size)) is not None for i in range(first, stop))

    def _first_needed(self, window: int, position: int) -> int:
        """The first block that a query at `position` or later can see."""
        return max(0, position - window + 1) // self.block_size if window else 0

    def fits(self, sequence: Sequence, tokens: int) -> bool:
        """Whether the sequence could grow to hold `tokens` tokens now."""
        wanted = -(-tokens // self.block_size)
        return all(
            wanted - len(table) <= pool.available for pool, table in zip(self.pools, sequence.tables, strict=True)
        )

    def grow(self, sequence: Sequence, tokens: int) -> bool:
        """Give the sequence blocks for its first `tokens` tokens; all groups or none."""
        if not self.fits(sequence, tokens):
            return False
        wanted = -(-tokens // self.block_size)
        for pool, table in zip(self.pools, sequence.tables, strict=True):
            while len(table) < wanted:
                table.append(pool.take())
        return True

    def commit(self, sequence: Sequence) -> None:
        """The first `computed` tokens are in the cache: make full blocks findable, let go of unseen ones."""
        full = sequence.computed // self.block_size
        if self.prefix_caching:
            for index in range(sequence.committed // self.block_size, full):
                digest = sequence.digest(index, self.block_size)
                for pool, table in zip(self.pools, sequence.tables, strict=True):
                    if table[index] != NULL_BLOCK:
                        pool.label(table[index], digest)
        sequence.committed = full * self.block_size
        for window, pool, table in zip(self.windows, self.pools, sequence.tables, strict=True):
            if window:
                self._slide(pool, table, self._first_needed(window, sequence.computed))

    def _slide(self, pool: BlockPool, table: list[int], first: int) -> None:
        for index in range(min(first, len(table)) - 1, -1, -1):
            if table[index] == NULL_BLOCK:
                return
            pool.release(table[index])
            table[index] = NULL_BLOCK

    def free(self, sequence: Sequence) -> None:
        """Release everything. The deepest blocks become reusable space first, so that prefixes live longest."""
        for pool, table in zip(self.pools, sequence.tables, strict=True):
            for block in reversed(table):
                if block != NULL_BLOCK:
                    pool.release(block)
            table.clear()
        sequence.computed = sequence.committed = 0

    def clear(self) -> None:
        """Forget cached prefixes that nobody holds."""
        for pool in self.pools:
            pool.clear()

    def check(self, sequences: list[Sequence]) -> None:
        """Assert that the pools' counts are exactly what these sequences hold. For tests."""
        for group, pool in enumerate(self.pools):
            held: dict[int, int] = {}
            for sequence in sequences:
                for block in sequence.tables[group]:
                    if block != NULL_BLOCK:
                        held[block] = held.get(block, 0) + 1
            pool.check(held)
