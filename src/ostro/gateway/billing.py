"""One call's money: held before it is sent, noted while it streams, settled before its last byte leaves."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from ostro.core.errors import StorageError
from ostro.core.money import Price
from ostro.gateway.events import Counted
from ostro.storage.accounts import Hold, Room
from ostro.storage.ledger import Bill, Ledger

# Tokens that may have been sent beyond what the ledger knows; notes go out well before, so that nobody waits for them.
BEHIND = 32
_NOTE_EVERY = 8
# Bytes a token, on the average: for answers whose node tells no usage.
USUAL_TOKEN = 4
# A ledger that does not answer for so long is one that is away.
_SETTLE_S = 10.0


class Billing:
    """prompt_guess: tokens of the prompt where the node tells none, by the bytes of it."""

    def __init__(self, ledger: Ledger, hold: Hold, price: Price, prompt_guess: int) -> None:
        self.room: Room | None = None
        self.node: str | None = None
        self.limits = hold.limits
        self._ledger = ledger
        self._hold = hold
        self._price = price
        self._guess = prompt_guess
        self._pieces = 0
        self._told: Counted | None = None
        self._served = False
        self._share = 1.0
        self._asked_for = 0
        self._noted = 0
        self._notes: list[tuple[int, asyncio.Future[None]]] = []
        self._settling: asyncio.Future[None] | None = None

    async def hold(self) -> None:
        """Raises what `Ledger.reserve` raises. A caller that leaves meanwhile gives back what is held."""
        reserving = asyncio.ensure_future(self._ledger.reserve(self._hold))
        try:
            self.room = await asyncio.shield(reserving)
        except asyncio.CancelledError:
            reserving.add_done_callback(self._give_back)
            raise

    def _give_back(self, reserving: asyncio.Future[Room]) -> None:
        if not reserving.cancelled() and reserving.exception() is None:
            self._settling = self._ledger.settle(self._bill("disconnect"))

    def was_served(self, node: str) -> None:
        """A node answers: from now on the call and its prompt are owed, whatever becomes of it."""
        self.node, self._served = node, True

    async def note(self) -> None:
        """What is owed by now. Raises StorageError where it cannot be written."""
        await self._ledger.mark(self._bill("ok"))

    def was_kept(self, node: str, used: Counted, share: float) -> None:
        """The answer is one that was given before: it costs a share of its price."""
        self.node, self._served, self._told, self._share = node, True, used, share

    @property
    def used(self) -> Counted:
        return Counted(self.prompt_tokens, self.completion_tokens)

    def counts(self, pieces: int, told: Counted | None) -> None:
        """What an event said."""
        self._pieces += pieces
        if told is not None:
            before = self._told or Counted(0, 0)
            self._told = Counted(max(before.prompt, told.prompt), max(before.completion, told.completion))

    async def may_send(self) -> None:
        """Before what was counted is sent: note it, and wait where the ledger is too far behind.

        Raises StorageError where it cannot be written.
        """
        tokens = self.completion_tokens
        if tokens - self._asked_for >= _NOTE_EVERY:
            self._notes.append((tokens, self._ledger.mark(self._bill("ok"))))
            self._asked_for = tokens
        while self._notes and (self._notes[0][1].done() or tokens - self._noted > BEHIND):
            noted, note = self._notes.pop(0)
            await note
            self._noted = noted

    @property
    def call_id(self) -> str:
        return self._hold.call_id

    @property
    def completion_tokens(self) -> int:
        return max(self._pieces, 0 if self._told is None else self._told.completion)

    @property
    def prompt_tokens(self) -> int:
        return self._told.prompt if self._told is not None and self._told.prompt else self._guess

    @property
    def charge(self) -> int:
        """Micro-dollars."""
        if not self._served:
            return 0
        price = self._price.of(self.prompt_tokens, self.completion_tokens)
        return min(math.ceil(price * self._share), self._hold.amount)

    async def settle(self, outcome: str) -> None:
        """Once; a second time it waits for the first. Raises StorageError where the ledger does not take it in time; it
        is written as soon as it does."""
        if self._settling is None:
            self._settling = self._ledger.settle(self._bill(outcome))
        try:
            async with asyncio.timeout(_SETTLE_S):
                await asyncio.shield(self._settling)
        except TimeoutError:
            raise StorageError("The ledger cannot be written; the call is charged as soon as it can be.") from None

    def forgive(self) -> None:
        """What was to be paid was never sent: nothing is owed, as soon as the ledger can be told."""
        self._served = False
        self._settling = self._ledger.settle(self._bill("error"))

    @property
    def is_settled(self) -> bool:
        """Whether it has been asked for."""
        return self._settling is not None

    def _bill(self, outcome: str) -> Bill:
        return Bill(
            call_id=self._hold.call_id,
            key_id=self._hold.key_id,
            charge=self.charge,
            prompt_tokens=self.prompt_tokens if self._served else 0,
            completion_tokens=self.completion_tokens,
            node=self.node,
            outcome=outcome,
        )


def guessed(body: Mapping[str, Any], billing: Billing) -> Counted:
    """For an answer whose node does not say what it used: never free."""
    text = 0
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            text += len(msgspec.json.encode(choice.get("message") or choice.get("text") or ""))
    return Counted(billing.prompt_tokens, -(-text // USUAL_TOKEN))
