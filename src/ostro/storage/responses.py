"""Stored answers of `/v1/responses`, and the conversations that they are turns of."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import CTE, ColumnElement, Connection, Row, Text, and_, cast, delete, func, insert, select, update

from ostro.core.errors import InvalidRequestError
from ostro.storage.database import Database
from ostro.storage.schema import responses

KEPT_S = 30 * 24 * 3600.0
# Characters of JSON that are read for one request: as much as a request of its own could hold.
MAX_READ = 16 * 1024 * 1024


class TooMuchKeptError(InvalidRequestError):
    """Kept answers that are too large to be read together."""

    code = "context_length_exceeded"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one answer adds to a conversation. input, output: items in their order, as JSON values."""

    id: str
    previous_id: str | None = None
    input: list[Any]
    output: list[Any]


@dataclass(frozen=True, kw_only=True)
class StoredResponse(Turn):
    """One answer. body: the answer but for its output. owner: whoever may find it. Times in seconds since the epoch."""

    created_at: float
    model: str
    owner: str
    body: dict[str, Any]


class ResponseStore:
    """Everything is looked up under an owner; what belongs to others is not there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, response: StoredResponse) -> None:
        """Keep an answer for `KEPT_S` seconds, and as long the turns that it goes on from: without them it has no
        meaning. What has expired is removed first."""
        now = time.time()

        def work(connection: Connection) -> None:
            connection.execute(delete(responses).where(responses.c.expires_at <= now))
            connection.execute(insert(responses).values(**asdict(response), expires_at=now + KEPT_S))
            if response.previous_id is not None:
                chain = _chain(response.previous_id, response.owner)
                turns = responses.c.id.in_(select(chain.c.id))
                connection.execute(update(responses).where(turns).values(expires_at=now + KEPT_S))

        await self._database.write(work)

    async def find(self, response_id: str, owner: str) -> StoredResponse | None:
        def work(connection: Connection) -> StoredResponse | None:
            columns = [responses.c[name] for name in StoredResponse.__dataclass_fields__]
            found = select(*columns).where(*_visible(owner), responses.c.id == response_id)
            row = connection.execute(found).first()
            return None if row is None else StoredResponse(**row._mapping)

        return await self._database.read(work)

    async def delete(self, response_id: str, owner: str) -> bool:
        """Whether it was there. Answers that go on from it stay, and can be gone on from no more."""

        def work(connection: Connection) -> bool:
            gone = delete(responses).where(*_visible(owner), responses.c.id == response_id)
            return connection.execute(gone).rowcount > 0

        return await self._database.write(work)

    async def conversation(self, response_id: str, owner: str) -> list[Turn]:
        """The turns up to this answer, oldest first; empty where it is not there.

        The first has a `previous_id` where the turn before it is gone. Raises TooMuchKeptError.
        """

        def work(connection: Connection) -> list[Turn]:
            chain = _chain(response_id, owner)
            within = responses.c.id.in_(select(chain.c.id))
            _refuse_much(connection, within)
            joined = select(*_turn_columns()).where(within)
            found = {row.id: _turn(row) for row in connection.execute(joined).all()}
            turns = []
            at: str | None = response_id
            while at is not None and (turn := found.pop(at, None)) is not None:
                turns.append(turn)
                at = turn.previous_id
            return turns[::-1]

        return await self._database.read(work)

    async def several(self, response_ids: Collection[str], owner: str) -> dict[str, Turn]:
        """Those of some answers that are there, by id. Raises TooMuchKeptError."""

        def work(connection: Connection) -> dict[str, Turn]:
            within = and_(*_visible(owner), responses.c.id.in_(response_ids))
            _refuse_much(connection, within)
            found = select(*_turn_columns()).where(within)
            return {row.id: _turn(row) for row in connection.execute(found).all()}

        return await self._database.read(work)


def _chain(response_id: str, owner: str) -> CTE:
    """The ids of an answer and of all that it goes on from."""
    chain = select(responses.c.id, responses.c.previous_id).where(*_visible(owner), responses.c.id == response_id)
    table = chain.cte("chain", recursive=True)
    before = select(responses.c.id, responses.c.previous_id).where(
        *_visible(owner), responses.c.id == table.c.previous_id
    )
    return table.union(before)


def _refuse_much(connection: Connection, within: ColumnElement[bool]) -> None:
    """Before anything is read: long conversations would be in memory, as objects, many times over."""
    sizes = [func.length(cast(responses.c[name], Text)) for name in ("input", "output")]
    size = connection.execute(select(func.sum(sizes[0] + sizes[1])).where(within)).scalar() or 0
    if size > MAX_READ:
        raise TooMuchKeptError(
            f"What is kept of this conversation has {size} characters; at most {MAX_READ} are read. Send what matters "
            "of it as input.",
            param="previous_response_id",
        )


def _visible(owner: str) -> Sequence[Any]:
    return (responses.c.owner == owner, responses.c.expires_at > time.time())


def _turn_columns() -> Sequence[Any]:
    return [responses.c[name] for name in Turn.__dataclass_fields__]


def _turn(row: Row[Any]) -> Turn:
    return Turn(**row._mapping)
