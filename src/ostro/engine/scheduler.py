"""Who runs in the next step: decoding first, then prefill in chunks, then whoever waits and fits."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from ostro.core.options import EngineOptions
from ostro.engine.block_manager import BlockManager
from ostro.engine.encodings import Encodings
from ostro.engine.lookup import PromptLookup
from ostro.engine.pace import Pace
from ostro.engine.plan import Admission, BatchPlan, PlanRow
from ostro.engine.sequence import Sequence

# Entries of cancelled requests that may stay in the queue beside as many as wait.
MANY_DONE = 64


class Scheduler:
    """Owns the queues, the slots and the blocks. Makes plans; `Engine` applies their results.

    Preemption is by recomputation: the sequence that should go last loses its blocks and waits again, with its
    tokens, where its key puts it.
    """

    def __init__(self, options: EngineOptions, blocks: BlockManager, encodings: Encodings) -> None:
        self.options = options
        self.blocks = blocks
        self.encodings = encodings
        self.pace = Pace(options.slowdown)
        self.running: list[Sequence] = []
        self.num_waiting = 0
        self.preemptions: list[Sequence] = []
        self._waiting: list[tuple[tuple[float, int], Sequence]] = []
        self._slots = list(range(options.max_num_seqs))[::-1]
        self._step = 0
        # Tokens of prompts with media that still fit beside running streams in the step that is being planned.
        self._room = 0
        # What each slot's runner-side block tables hold, by length: a table only grows until a window slides.
        self._sent: dict[int, tuple[int, ...]] = {}

    def add(self, sequence: Sequence) -> None:
        heapq.heappush(self._waiting, (sequence.key, sequence))
        self.num_waiting += 1

    def remove(self, sequence: Sequence) -> None:
        """Finished or cancelled: its blocks are free when this returns."""
        if sequence.slot is None:
            self.num_waiting -= 1  # Its heap entry is dropped when it comes up, or with others below.
        else:
            self.running.remove(sequence)
            self._leave_slot(sequence)
        sequence.done = True
        if len(self._waiting) > 2 * self.num_waiting + MANY_DONE:
            self._waiting = [entry for entry in self._waiting if not entry[1].done]
            heapq.heapify(self._waiting)
        self.blocks.free(sequence)

    def schedule(self) -> BatchPlan:
        """The next step. A plan without rows and without anything to encode means that nothing can run."""
        self.preemptions.clear()
        self.running.sort(key=lambda sequence: sequence.key)
        budget = self.options.max_batch_tokens
        short: list[PlanRow] = []
        long: list[PlanRow] = []
        planned: set[int] = set()
        self._room = self.pace.chunk(encoding=self.encodings.pending)
        for decoding in (True, False):
            for sequence in list(self.running):
                if sequence.slot is None or sequence.decoding is not decoding or budget <= 0:
                    continue
                row = self._continue(sequence, self._allowed(sequence, budget, bool(short)), planned)
                if row is not None:
                    (short if decoding else long).append(row)
                    planned.add(row.slot)
                    budget -= len(row.token_ids)
                    self._take_room(sequence, len(row.token_ids))
        admissions = [] if self.preemptions else self._admit(budget, long, bool(short))
        waiting = [one for one in self.running if one.request.spans and not one.decoding]
        encode, forget = self.encodings.plan(waiting, _read_by(waiting, long))
        seconds = self.pace.encode_s(decoding=bool(short), prefilling=bool(long)) if self.encodings.pending else 0.0
        self._step += 1
        return BatchPlan(self._step, admissions, short + long, encode, forget, seconds)

    def _allowed(self, sequence: Sequence, budget: int, streams: bool) -> int:
        """Tokens of a sequence that may run: those with media wait for their encoders, and leave running streams their
        pace."""
        if not sequence.request.spans or sequence.decoding:
            return budget
        ready = self.encodings.limit(sequence) - sequence.computed
        return min(budget, ready, self._room) if streams else min(budget, ready)

    def _take_room(self, sequence: Sequence, count: int) -> None:
        """All prompts with media share what running streams leave them in a step."""
        if sequence.request.spans and not sequence.decoding:
            self._room -= count

    def _continue(self, sequence: Sequence, budget: int, planned: set[int]) -> PlanRow | None:
        """A row for a running sequence, making room where it must; None where it had to give way itself, or waits for
        its encoder."""
        if budget <= 0:
            return None
        drafts = self._drafts(sequence, budget) if sequence.decoding else []
        pending = len(sequence.tokens) - sequence.computed
        count = min(pending, budget)
        while not self.blocks.grow(sequence, sequence.computed + count + len(drafts)):
            if drafts:
                drafts = []
                continue
            victim = self._victim(planned)
            self._preempt(victim)
            if victim is sequence:
                return None
        return self._row(sequence, count, drafts)

    def _victim(self, planned: set[int]) -> Sequence:
        """The last in order that is not part of this step already."""
        return next(sequence for sequence in reversed(self.running) if sequence.slot not in planned)

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._leave_slot(sequence)
        self.blocks.free(sequence)
        self.add(sequence)
        self.preemptions.append(sequence)

    def _leave_slot(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self._slots.append(sequence.slot)
        self._sent.pop(sequence.slot, None)
        sequence.slot = None

    def _admit(self, budget: int, rows: list[PlanRow], streams: bool) -> list[Admission]:
        admissions: list[Admission] = []
        held_back: list[tuple[tuple[float, int], Sequence]] = []
        prefilling = {s.request.group for s in self.running if not s.decoding and s.request.group}
        while budget > 0 and self._slots and self._waiting:
            entry = heapq.heappop(self._waiting)
            sequence = entry[1]
            if sequence.done:
                continue
            if sequence.request.group in prefilling:
                held_back.append(entry)
                continue
            if not self._try_start(sequence):
                heapq.heappush(self._waiting, entry)
                break
            count = min(len(sequence.tokens) - sequence.computed, self._allowed(sequence, budget, streams))
            grown = self.blocks.grow(sequence, sequence.computed + count)
            assert grown, "a sequence that may start fits"
            self.num_waiting -= 1
            self.running.append(sequence)
            if sequence.request.group:
                prefilling.add(sequence.request.group)
            admissions.append(self._admission(sequence))
            if count:
                rows.append(self._row(sequence, count, []))
                budget -= count
                self._take_room(sequence, count)
        for entry in held_back:
            heapq.heappush(self._waiting, entry)
        return admissions

    def _try_start(self, sequence: Sequence) -> bool:
        """Reuse what is cached; start only if the rest of the prompt fits, so that starts do not evict each other."""
        cached = self.blocks.match(sequence)
        if not self.blocks.fits(sequence, len(sequence.tokens)) and self.running:
            self.blocks.free(sequence)
            return False
        if not sequence.was_scheduled:
            sequence.cached = cached
            self.encodings.count(sequence)
        sequence.slot = self._slots.pop()
        return True

    def _admission(self, sequence: Sequence) -> Admission:
        assert sequence.slot is not None
        return Admission(
            sequence.slot,
            sequence.request.params,
            sequence.request.seed,
            sequence.request.stop_token_ids,
            list(sequence.tokens),
            sequence.num_prompt,
            sequence.request.pooling,
            sequence.request.spans,
            sequence.request.inspect,
        )

    def _row(self, sequence: Sequence, count: int, drafts: list[int]) -> PlanRow:
        assert sequence.slot is not None
        start = sequence.computed
        last = start + count == len(sequence.tokens) and sequence.request.pooling is None
        sequence.drafts = drafts
        return PlanRow(
            sequence.slot,
            start,
            sequence.tokens[start : start + count] + drafts,
            1 + len(drafts) if last else 0,
            self._tables(sequence),
        )

    def _tables(self, sequence: Sequence) -> list[list[int]] | None:
        """The tables if they grew since they were last sent. Blocks that a window gave up are never read again."""
        assert sequence.slot is not None
        lengths = tuple(len(table) for table in sequence.tables)
        if self._sent.get(sequence.slot) == lengths:
            return None
        self._sent[sequence.slot] = lengths
        return [list(table) for table in sequence.tables]

    def _drafts(self, sequence: Sequence, budget: int) -> list[int]:
        params = sequence.request.params
        room = (params.max_tokens or 0) - sequence.num_output - 1
        most = min(self.options.speculate, budget - 1, room)
        if most <= 0:
            return []
        if sequence.lookup is None:
            sequence.lookup = PromptLookup()
        return sequence.lookup.propose(sequence.tokens, most)


def _read_by(sequences: Iterable[Sequence], rows: Iterable[PlanRow]) -> set[str]:
    """Digests of the inputs whose outputs these rows read: a long row may read several."""
    stops = {row.slot: row.start + len(row.token_ids) for row in rows}
    return {
        span.digest
        for sequence in sequences
        if sequence.slot in stops
        for span in sequence.request.spans
        if span.start < stops[sequence.slot] and span.stop > sequence.computed
    }
