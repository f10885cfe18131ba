"""Which addresses of hosts are public, and connections that go to such an address and to no other."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpcore2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# From a host's name to all its addresses. Raises OSError where it has none.
Resolve = Callable[[str], Awaitable[Sequence[str]]]

_CONNECT_S = 3.0
# A name may have thousands of addresses, of others who do not want to hear from us.
_MAX_TRIED = 4

_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
# Addresses for IPv4 hosts where a network has IPv6 only: what matters is the address inside (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What `is_global` takes for global, in some Python at least.
_NOT_PUBLIC_V4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "168.63.129.16/32",  # Azure's own service inside every virtual machine
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service is there
        "192.88.99.0/24",  # relays of 6to4
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved
    )
]
_NOT_PUBLIC_V6 = [
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments; Teredo, which holds an IPv4 address, is there
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which holds an IPv4 address (RFC 7526: not to be used any more)
        "3fff::/20",  # documentation
    )
]


def is_public(address: Address) -> bool:
    """Whether it is an address of one host on the public internet, whatever it is wrapped in.

    >>> [is_public(ipaddress.ip_address(text)) for text in ("8.8.8.8", "10.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1")]
    [True, False, False, False]
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not any(address in network for network in _NOT_PUBLIC_V4)
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _PUBLIC_V6 and address.is_global and not any(address in network for network in _NOT_PUBLIC_V6)


def unmapped(address: Address) -> Address:
    """The IPv4 address that an IPv4-mapped one stands for; any other as it is."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


class SystemResolver:
    """Asks the system. threads: names that are looked up at once."""

    def __init__(self, threads: int) -> None:
        # Threads of its own: a name server that does not answer keeps one for longer than any timeout of ours, and
        # those of the event loop's executor are needed for other work.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="ostro-names")

    async def __call__(self, host: str) -> list[str]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host)
        return [str(entry[4][0]) for entry in found]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    # The dot at the end: no names of the local network by way of its search domains or of a file of hosts.
    return list(socket.getaddrinfo(f"{host}.", None, type=socket.SOCK_STREAM))


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to the given addresses, one after the other, whatever host a request names: between the check of an
    address and the connection no name is looked up again. TLS verifies the name all the same. Close it at the end."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        assert addresses
        self._addresses = addresses
        self._network = httpcore2.AnyIOBackend()
        self._made: list[httpcore2.AsyncNetworkStream] = []

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - httpcore's interface
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises ConnectError or ConnectTimeout, of httpcore2, of the last address that was tried."""
        *others, last = self._addresses[:_MAX_TRIED]
        for address in others:
            try:
                return await self._connect(address, port, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._connect(last, port, local_address, socket_options)

    async def aclose(self) -> None:
        """Closes what was connected: httpcore2 leaves a connection open that is cancelled in the handshake of TLS."""
        for stream in self._made:
            await stream.aclose()

    async def _connect(
        self,
        address: Address,
        port: int,
        local_address: str | None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None,
    ) -> httpcore2.AsyncNetworkStream:
        stream = await self._network.connect_tcp(str(address), port, _CONNECT_S, local_address, socket_options)
        self._made.append(stream)
        return stream
