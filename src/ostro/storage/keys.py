"""API keys of a gateway: 256 random bits each, of which only the digest is kept."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, insert, select, update

from ostro.core.errors import InvalidRequestError
from ostro.core.ids import new_id
from ostro.storage.schema import api_keys

_PREFIX = "ostro-"
_BYTES = 32
_HINT = len(_PREFIX) + 4


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key. Times in seconds since the epoch, money in micro-dollars; see `storage.schema`."""

    id: str
    hint: str
    name: str
    tenant: str
    tier: str
    admin: bool
    watches: bool
    models: list[str] | None
    region: str | None
    priority: int
    budget: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    spent: int
    reserved: int
    running: int

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """What whoever makes a key decides."""

    name: str
    tenant: str
    tier: str
    admin: bool = False
    watches: bool = False
    models: list[str] | None = None
    region: str | None = None
    priority: int = 0
    budget: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    expires_at: float | None = None


# What may be changed of a key that is there.
CHANGEABLE = frozenset(NewKey.__struct_fields__) - {"tenant", "admin", "watches"}
_COLUMNS = [api_keys.c[name] for name in Key.__struct_fields__]


def digest_of(secret: str) -> str:
    """SHA-256, in hex. A key is random and long: nothing slower is needed, and it is looked up by this."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create_key(connection: Connection, wanted: NewKey) -> tuple[str, Key]:
    """The key itself, which is not kept and never shown again, and what is."""
    secret = _PREFIX + secrets.token_urlsafe(_BYTES)
    row = {
        **msgspec.structs.asdict(wanted),
        "id": new_id("key"),
        "digest": digest_of(secret),
        "hint": secret[:_HINT],
        "created_at": time.time(),
        "spent": 0,
        "reserved": 0,
        "running": 0,
        "recent": "",
    }
    connection.execute(insert(api_keys).values(row))
    key = get_key(connection, str(row["id"]))
    assert key is not None
    return secret, key


def find_key(connection: Connection, digest: str) -> Key | None:
    """By its digest; also one that has been revoked or has expired."""
    row = connection.execute(select(*_COLUMNS).where(api_keys.c.digest == digest)).one_or_none()
    return None if row is None else _key(row)


def get_key(connection: Connection, key_id: str) -> Key | None:
    row = connection.execute(select(*_COLUMNS).where(api_keys.c.id == key_id)).one_or_none()
    return None if row is None else _key(row)


def list_keys(connection: Connection, tenant: str | None = None) -> Sequence[Key]:
    """Oldest first; tenant: of one alone."""
    query = select(*_COLUMNS).order_by(api_keys.c.created_at, api_keys.c.id)
    if tenant is not None:
        query = query.where(api_keys.c.tenant == tenant)
    return [_key(row) for row in connection.execute(query)]


def change_key(connection: Connection, key_id: str, changes: Mapping[str, Any]) -> Key | None:
    """None for an unknown one. Raises InvalidRequestError for what cannot be changed."""
    for name in changes:
        if name not in CHANGEABLE:
            raise InvalidRequestError(f"'{name}' of a key cannot be changed.", param=name)
    if changes:
        connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(dict(changes)))
    return get_key(connection, key_id)


def revoke_key(connection: Connection, key_id: str) -> Key | None:
    """For ever. Calls that run end as they would have. None for an unknown one."""
    still = (api_keys.c.id == key_id) & api_keys.c.revoked_at.is_(None)
    connection.execute(update(api_keys).where(still).values(revoked_at=time.time()))
    return get_key(connection, key_id)


def _key(row: Row[Any]) -> Key:
    return Key(**{**row._mapping, "admin": bool(row.admin), "watches": bool(row.watches)})
