"""Images and sounds that a client names by address. Off unless an operator allows hosts, and never a way into the
server's own network (CVE-2025-6242)."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urljoin

import httpcore2

from ostro import __version__
from ostro.web.fetch_network import Address, PinnedBackend, Resolve, SystemResolver, is_public, unmapped
from ostro.web.fetch_target import HostPattern, MediaNotFetchedError, Target, is_address, read_target

log = logging.getLogger("ostro.web")

MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
# A body in pieces of a few bytes costs a thousand times the processor time of an honest one: after the first pieces
# they must have so many bytes on average.
_FIRST_PIECES = 4096
_PIECE_BYTES = 256


@dataclass(frozen=True)
class Fetched:
    """What a host gave. declared: its Content-Type, which nobody has checked; None without one."""

    data: bytes
    declared: str | None


class MediaFetcher:
    """Fetches images and sounds from the web, for clients who send an address in place of bytes.

    A host's name is resolved once, each of its addresses must be public, and the connection goes to one of them. The
    same holds for every redirect. What a client learns of a failure is the same whether an address is not public, does
    not exist, refuses or is slow; the log says which.
    """

    def __init__(
        self,
        allowed: Sequence[str] = (),
        *,
        max_bytes: int = 32 * 1024 * 1024,
        timeout_s: float = 10.0,
        at_once: int = 8,
        resolve: Resolve | None = None,
        admits: Callable[[Address], bool] = is_public,
    ) -> None:
        """Raises ConfigError for what is no pattern of hosts.

        allowed: patterns as in `HostPattern`; none refuses every address. max_bytes: of one body. timeout_s: for all of
        one fetch, with its redirects and the wait for its turn. at_once: fetches that run at the same time. resolve and
        admits: for tests, which cannot do without a name and a loopback address of their own.
        """
        self._patterns = [HostPattern.read(text) for text in allowed]
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(at_once)
        self._system = SystemResolver(at_once)
        self._resolve = resolve or self._system
        self._admits = admits

    async def fetch(self, url: str) -> Fetched:
        """What is there. Raises MediaNotFetchedError, an InvalidRequestError, for everything that is in the way."""
        if not self._patterns:
            raise MediaNotFetchedError(
                "This server fetches nothing from the web. Send the bytes themselves, as a data: URL or in base64, or "
                "have the server started with 'ostro serve --allow-media-from HOST'."
            )
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                return await self._follow(url)
        except TimeoutError:
            error = self._unreachable(f"not done after {self._timeout_s:g} s")
        except MediaNotFetchedError as refused:
            error = refused
        log.info("media not fetched: %s", error.detail)
        raise error

    async def close(self) -> None:
        """No fetch may be begun afterwards."""
        self._system.close()

    async def _follow(self, url: str) -> Fetched:
        target = self._allowed(url)
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._ask(target)
            if isinstance(answer, Fetched):
                return answer
            target = self._redirected(target, answer)
        raise MediaNotFetchedError(f"The address redirects more than {MAX_REDIRECTS} times. Send the last one.")

    def _allowed(self, url: str) -> Target:
        target = read_target(url)
        if not any(pattern.covers(target) for pattern in self._patterns):
            raise MediaNotFetchedError(
                "The address is at a host or a port that this server does not fetch from. Send the bytes themselves, "
                "or have the server started with 'ostro serve --allow-media-from HOST'.",
                detail=f"{target.shown}: not allowed by --allow-media-from",
            )
        return target

    def _redirected(self, target: Target, location: str) -> Target:
        try:
            following = self._allowed(urljoin(f"{target.shown}{target.query}", location))
            if target.scheme == "https" and following.scheme == "http":
                raise ValueError("from https to http")
        except (MediaNotFetchedError, ValueError) as error:
            why = error.detail if isinstance(error, MediaNotFetchedError) else error
            raise MediaNotFetchedError(
                "The address redirects to one that this server does not fetch from. Send the bytes themselves.",
                detail=f"{target.shown} redirects: {why}",
            ) from None
        return following

    async def _ask(self, target: Target) -> Fetched | str:
        """One request: the body, or where a redirect leads."""
        addresses = await self._addresses(target)
        # The host as asked, not as httpcore2 would write an IPv6 address. No compression: its bytes cannot be counted.
        headers = {
            "Host": target.authority,
            "User-Agent": f"ostro/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        url = httpcore2.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=f"{target.path}{target.query}"
        )
        tls = self._tls if target.scheme == "https" else None
        try:
            async with (
                aclosing(PinnedBackend(addresses)) as backend,
                # A pool for each request: a connection that was kept would be to an address of another check.
                httpcore2.AsyncConnectionPool(ssl_context=tls, network_backend=backend) as pool,
                pool.stream("GET", url, headers=list(headers.items())) as response,
            ):
                return await self._read(target, response)
        except (OSError, httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
            raise self._unreachable(f"{target.shown}: {type(error).__name__}: {error}") from None

    async def _addresses(self, target: Target) -> list[Address]:
        """The host's addresses, all of them public."""
        try:
            named = [target.host] if is_address(target.host) else await self._resolve(target.host)
            addresses = [unmapped(ipaddress.ip_address(text)) for text in named]
        except (OSError, ValueError) as error:
            raise self._unreachable(f"{target.shown}: {error}") from None
        refused = [str(address) for address in addresses if not self._admits(address)]
        if refused or not addresses:
            why = f"{', '.join(refused[:4])} not public" if refused else "no address"
            raise self._unreachable(f"{target.shown}: {why}")
        return list(dict.fromkeys(addresses))

    async def _read(self, target: Target, response: httpcore2.Response) -> Fetched | str:
        location = _header(response, b"location")
        if response.status in _REDIRECTS and location:
            return location
        if response.status != 200:
            raise _unusable(target, f"is answered with status {response.status} in place of 200")
        encoding = _header(response, b"content-encoding")
        if encoding is not None and encoding.lower() != "identity":
            raise _unusable(target, "is answered with a compressed body, although none was asked for")
        return Fetched(await self._body(target, response), _header(response, b"content-type"))

    async def _body(self, target: Target, response: httpcore2.Response) -> bytes:
        too_large = _unusable(target, f"holds more than {self._max_bytes} bytes, the most that this server takes")
        announced = _header(response, b"content-length") or ""
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise too_large
        data = bytearray()
        pieces = 0
        async for piece in response.aiter_stream():
            data += piece
            pieces += 1
            if len(data) > self._max_bytes:
                raise too_large
            if pieces > _FIRST_PIECES + len(data) // _PIECE_BYTES:
                raise _unusable(target, "is answered in too many small pieces")
        return bytes(data)

    def _unreachable(self, detail: str) -> MediaNotFetchedError:
        """The same words for whatever went wrong on the way to a host: others would tell what is in our network."""
        return MediaNotFetchedError(
            "The address could not be fetched: it is not at a public host, or that does not answer as it should, or "
            f"took longer than {self._timeout_s:g} s. Send the bytes themselves, as a data: URL or in base64.",
            detail=detail,
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return httpcore2.default_ssl_context()


def _unusable(target: Target, what: str) -> MediaNotFetchedError:
    return MediaNotFetchedError(f"The address {what}. Send another one, or the bytes.", detail=f"{target.shown} {what}")


def _header(response: httpcore2.Response, name: bytes) -> str | None:
    """A header's value, or those of several with commas between; None without one."""
    found = [value.decode(errors="replace") for key, value in response.headers if key.lower() == name]
    return ", ".join(found).strip() if found else None
