"""Usage as CSV or JSON."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ostro.core.errors import InvalidRequestError
from ostro.core.money import usd
from ostro.storage import Database
from ostro.storage.usage import DAY_S, GROUPS, UsageRow, usage

_USUAL_DAYS = 30
_COLUMNS = ("day", "tenant", "key", "model", "endpoint", "node", "calls", "failed", "prompt_tokens",
            "completion_tokens", "usd")  # fmt: skip
# What a spreadsheet takes for a formula.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


async def usage_response(request: Request, database: Database, *, tenant: str | None) -> Response:
    """The query may have `since` and `until` (days such as 2026-11-30, the second of them included), `by` (any of key,
    model, endpoint, node, with commas) and `format` (json or csv). Raises InvalidRequestError."""
    query = request.query_params
    until = _day(query.get("until"), "until", time.time()) + DAY_S
    since = _day(query.get("since"), "since", until - _USUAL_DAYS * DAY_S)
    by = [name for name in query.get("by", "key,model").split(",") if name]
    for name in by:
        if name not in GROUPS:
            raise InvalidRequestError(f"by: {name[:40]!r} is none of {', '.join(GROUPS)}.", param="by")
    kind = query.get("format", "json")
    if kind not in ("json", "csv"):
        raise InvalidRequestError("format must be json or csv.", param="format")
    rows = await database.read(
        lambda connection: usage(connection, tenant=tenant, since=since, until=until, by=list(dict.fromkeys(by)))
    )
    if kind == "csv":
        headers = {"content-disposition": 'attachment; filename="usage.csv"'}
        return Response(as_csv(rows), media_type="text/csv; charset=utf-8", headers=headers)
    total = sum(row.charge for row in rows)
    body = {"object": "list", "data": [_record(row) for row in rows], "total_usd": usd(total)}
    return Response(msgspec.json.encode(body), media_type="application/json")


def as_csv(rows: Sequence[UsageRow]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        record = _record(row)
        writer.writerow([_plain(record[name]) for name in _COLUMNS])
    return out.getvalue()


def _record(row: UsageRow) -> dict[str, object]:
    """Money is text: JSON's numbers are not exact everywhere."""
    record = msgspec.structs.asdict(row)
    day = datetime.fromtimestamp(record.pop("day"), UTC).date().isoformat()
    charge = record.pop("charge")
    return {"day": day, **record, "usd": usd(charge)}


def _plain(value: object) -> object:
    """Names are chosen by people; a spreadsheet must not run them."""
    if isinstance(value, str) and value.startswith(_FORMULAS):
        return f"'{value}"
    return "" if value is None else value


def _day(given: str | None, name: str, usual: float) -> float:
    """The beginning of a day, in seconds since the epoch."""
    if given is None:
        return usual // DAY_S * DAY_S
    try:
        return datetime.strptime(given, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise InvalidRequestError(f"{name} must be a day such as 2026-11-30, not {given[:40]!r}.", param=name) from None
