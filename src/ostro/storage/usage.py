"""What was used and what it cost, summed over calls."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, case, func, select

from ostro.storage.schema import calls

DAY_S = 86_400
# What may be told apart, beside the day.
GROUPS = {"key": calls.c.key_id, "model": calls.c.model, "endpoint": calls.c.endpoint, "node": calls.c.node}


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """day: seconds since the epoch at which it began, UTC. charge: micro-dollars. Those of the groups that were not
    asked for are None."""

    day: int
    tenant: str
    key: str | None = None
    model: str | None = None
    endpoint: str | None = None
    node: str | None = None
    calls: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    charge: int


def usage(
    connection: Connection,
    *,
    tenant: str | None,
    since: float,
    until: float,
    by: Sequence[str] = ("key", "model"),
) -> list[UsageRow]:
    """Of calls that began from `since` to `until`, by day and tenant and what is named in `by`; tenant None: of all."""
    # In whole numbers: a sum of rounded ones would not be that of the calls.
    day = (func.floor(calls.c.started_at / DAY_S) * DAY_S).label("day")
    groups = [GROUPS[name].label(name) for name in by]
    keys = [day, calls.c.tenant, *groups]
    query = (
        select(
            *keys,
            func.count().label("calls"),
            func.sum(case((calls.c.outcome.in_(("ok", "cached")), 0), else_=1)).label("failed"),
            func.sum(calls.c.prompt_tokens).label("prompt_tokens"),
            func.sum(calls.c.completion_tokens).label("completion_tokens"),
            func.sum(calls.c.charge).label("charge"),
        )
        .where(calls.c.state != "open", calls.c.started_at >= since, calls.c.started_at < until)
        .group_by(*keys)
        .order_by(*keys)
    )
    if tenant is not None:
        query = query.where(calls.c.tenant == tenant)
    numbers = ("day", "calls", "failed", "prompt_tokens", "completion_tokens", "charge")
    return [
        UsageRow(**{**row, **{name: int(row[name]) for name in numbers}})
        for row in connection.execute(query).mappings()
    ]
