"""Who calls: keys by their digests, kept for a moment. What a key may spend is judged by the ledger, on each call."""

from __future__ import annotations

import time

from starlette.types import Scope

from ostro.core.errors import AuthenticationError, OstroError
from ostro.storage import Database
from ostro.storage.keys import Key, digest_of, find_key
from ostro.web.auth import token_of

_KEPT_S = 2.0
_MOST_KEPT = 10_000


class NotAllowedError(OstroError):
    """A key that may not do this."""

    status = 403
    type = "permission_error"
    code = "not_allowed"


class Keyring:
    """Nobody is let in without a key, whatever is known or not: there is no other identity."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[str, tuple[float, Key]] = {}

    async def caller(self, scope: Scope) -> Key:
        """Raises AuthenticationError, and StorageError where keys cannot be looked up."""
        secret = token_of(scope)
        if secret is None:
            raise AuthenticationError(
                "No API key was given. Send it as 'Authorization: Bearer KEY'.", code="no_api_key"
            )
        digest = digest_of(secret)
        now = time.monotonic()
        kept = self._kept.get(digest)
        key = kept[1] if kept is not None and now - kept[0] < _KEPT_S else None
        if key is None:
            key = await self._database.read(lambda connection: find_key(connection, digest))
            if key is None:
                raise AuthenticationError("The API key is not known here.")
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[digest] = (now, key)
        if key.revoked_at is not None:
            raise AuthenticationError("The API key has been revoked.")
        if key.expires_at is not None and key.expires_at <= time.time():
            raise AuthenticationError("The API key has expired.")
        return key

    async def admin(self, scope: Scope) -> Key:
        """As `caller`. Raises NotAllowedError for a key that administers nothing."""
        key = await self.caller(scope)
        if not key.admin:
            raise NotAllowedError("This takes a key that administers the gateway: `ostro keys create --admin`.")
        return key

    async def watcher(self, scope: Scope) -> Key:
        """As `caller`. Raises NotAllowedError for a key that may not read what is told of all tenants together."""
        key = await self.caller(scope)
        if not (key.admin or key.watches):
            raise NotAllowedError("This takes a key that may watch: `ostro keys create --watch`.")
        return key

    def forget(self) -> None:
        """Keys have been changed."""
        self._kept.clear()
