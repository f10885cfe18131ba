"""Fetching of images and sounds by address: what is fetched, and every way into the server's own network."""

from __future__ import annotations

import asyncio
import gc
import gzip
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostro.core.errors import ConfigError, InvalidRequestError
from ostro.web.fetch_network import Address, SystemResolver, is_public
from ostro.web.fetch_target import HostPattern, MediaNotFetchedError, read_host, read_target
from ostro.web.fetching import Fetched, MediaFetcher

PUBLIC = "93.184.215.14"
UNREACHABLE = "The address could not be fetched: it is not at a public host"

# For the name media.example, until 2126, made with
#   openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem \
#     -days 36500 -subj "/CN=tests" -addext "subjectAltName=DNS:media.example"
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBkTCCATegAwIBAgIUWSudto0w2bntoobFfOG+xD0fLt8wCgYIKoZIzj0EAwIw
EDEOMAwGA1UEAwwFdGVzdHMwIBcNMjYxMTMwMDAzNDI5WhgPMjEyNjExMDYwMDM0
MjlaMBAxDjAMBgNVBAMMBXRlc3RzMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
Qs3eY/h6cs8TiYz9jc8npQ2vjqZDFV4MpBBa+pZEu7HOQk7X9e6zARQupVcwAJyP
Seef1CoZArHNqqpT8kD0UaNtMGswHQYDVR0OBBYEFNll8TCWxxtZ/P1AgfEtEAaW
fZE6MB8GA1UdIwQYMBaAFNll8TCWxxtZ/P1AgfEtEAaWfZE6MA8GA1UdEwEB/wQF
MAMBAf8wGAYDVR0RBBEwD4INbWVkaWEuZXhhbXBsZTAKBggqhkjOPQQDAgNIADBF
AiAnM41gvzMmmHDygniHaaInMbzyogdRrzcHeW4FzGoE1wIhAJL+KOVuX51I6+zs
BlQuMyc0VTuaD1XsWY2H6EmvcAyN
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgn3CYtmi07xKPacGt
Zzf3AzSUABDf/oPBhqBbSsTeRCShRANCAARCzd5j+HpyzxOJjP2NzyelDa+OpkMV
XgykEFr6lkS7sc5CTtf17rMBFC6lVzAAnI9J55/UKhkCsc2qqlPyQPRR
-----END PRIVATE KEY-----
"""

Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


class Site:
    """A server on a loopback address. heads: what was asked of it, one head a request. open: connections."""

    def __init__(self, answer: Answer) -> None:
        self.port = 0
        self.connections = 0
        self.heads: list[str] = []
        self.names: list[str | None] = []
        self.most_at_once = 0
        self._answer = answer
        self.open: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.open.add(task)
        self.connections += 1
        self.most_at_once = max(self.most_at_once, len(self.open))
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            await self._answer(head.split()[1], writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # The client has left.
        finally:
            self.open.discard(task)
            writer.close()

    async def stop(self) -> None:
        for task in list(self.open):
            task.cancel()
        await asyncio.gather(*self.open, return_exceptions=True)


@asynccontextmanager
async def site(
    answer: Answer | bytes = b"", *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Site]:
    async def fixed(path: str, writer: asyncio.StreamWriter) -> None:
        assert isinstance(answer, bytes)
        writer.write(answer)

    running = Site(fixed if isinstance(answer, bytes) else answer)
    if tls is not None:
        tls.sni_callback = lambda _, name, __: running.names.append(name)
    server = await asyncio.start_server(running.serve, host, port, ssl=tls)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        await running.stop()
        await asyncio.sleep(0)  # connections that were closed above are let go of


def reply(body: bytes = b"bytes", status: int = 200, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Connection: close"]
    if not {"content_length", "transfer_encoding"} & headers.keys():
        headers["content_length"] = str(len(body))
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Names:
    """A resolver: the next of the answers, the last one for good."""

    def __init__(self, *answers: Sequence[str] | Exception) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def is_loopback(address: Address) -> bool:
    return address.is_loopback


def reaching(*sites: Site, names: Names | None = None, **options: Any) -> MediaFetcher:
    """A fetcher to which loopback addresses are public and every name is one of them."""
    options = {"admits": is_loopback, "timeout_s": 20.0, **options}
    return MediaFetcher([f"*:{one.port}" for one in sites], resolve=names or Names(["127.0.0.1"]), **options)


def words(text: str) -> list[str]:
    return text.split()


async def refusal(fetcher: MediaFetcher, url: str) -> MediaNotFetchedError:
    with pytest.raises(InvalidRequestError) as caught:
        await fetcher.fetch(url)
    assert isinstance(caught.value, MediaNotFetchedError)
    assert caught.value.code == "media_not_fetched"
    assert caught.value.status == 400
    return caught.value


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that connections were made to, or tried."""
    made: list[str] = []
    connect = httpcore2.AnyIOBackend.connect_tcp

    async def watched(self: Any, host: str, *rest: Any, **named: Any) -> httpcore2.AsyncNetworkStream:
        made.append(host)
        return await connect(self, host, *rest, **named)

    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", watched)
    return made


# What is fetched.


def test_bytes_and_their_declared_type_arrive(dialled: list[str]) -> None:
    async def scenario() -> None:
        async with site(reply(b"\x89PNG", content_type="image/png; x=1")) as one:
            fetcher = reaching(one)
            fetched = await fetcher.fetch(f"http://Media.Example.:{one.port}/a/ä.png?s=ü&t=%20#part")
            assert fetched == Fetched(b"\x89PNG", "image/png; x=1")
            head = one.heads[0].lower()
            assert head.startswith("get /a/%c3%a4.png?s=%c3%bc&t=%20 http/1.1\r\n")
            assert f"host: media.example:{one.port}\r\n" in head
            assert "accept-encoding: identity\r\n" in head
            assert "cookie" not in head
            assert "authorization" not in head
        assert dialled == ["127.0.0.1"]

    asyncio.run(scenario())


def test_without_a_type_none_is_declared_and_an_empty_path_is_the_root() -> None:
    async def scenario() -> None:
        async with site(reply(content_encoding="identity")) as one:
            assert await reaching(one).fetch(f"http://h:{one.port}?q") == Fetched(b"bytes", None)
            assert one.heads[0].startswith("GET /?q HTTP/1.1")

    asyncio.run(scenario())


@pytest.mark.parametrize("body", ["length", "chunks", "until it closes"])
def test_a_body_at_the_cap_arrives_whole_and_one_byte_more_does_not(body: str) -> None:
    def answer(data: bytes) -> bytes:
        if body == "length":
            return reply(data)
        if body == "chunks":
            return reply(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data), transfer_encoding="chunked")
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + data

    async def scenario() -> None:
        async with site(answer(b"x" * 1000)) as fits, site(answer(b"x" * 1001)) as over:
            fetcher = reaching(fits, over, max_bytes=1000)
            assert (await fetcher.fetch(f"http://h:{fits.port}/")).data == b"x" * 1000
            assert "more than 1000 bytes" in (await refusal(fetcher, f"http://h:{over.port}/")).message

    asyncio.run(scenario())


# Hosts that an operator allows.


def test_nothing_is_fetched_unless_hosts_are_allowed(dialled: list[str]) -> None:
    names = Names([PUBLIC])
    for url in ("http://example.org/a.png", "nonsense"):
        error = asyncio.run(refusal(MediaFetcher(resolve=names), url))
        assert "ostro serve --allow-media-from HOST" in error.message
    assert dialled == names.asked == []


@pytest.mark.parametrize(
    ("pattern", "url", "covered"),
    [
        ("example.org", "https://example.org/a", True),
        ("Example.ORG.", "http://eXample.org./a", True),
        ("example.org", "https://example.org:80/", True),
        ("example.org", "http://example.org:443/", True),
        ("example.org", "http://example.org:8443/", False),
        ("example.org", "http://a.example.org/", False),
        ("example.org", "http://example.org.evil.net/", False),
        ("example.org", "http://notexample.org/", False),
        ("example.org:8443", "https://example.org:8443/", True),
        ("example.org:8443", "https://example.org/", False),
        ("*.example.org", "https://a.b.example.org/", True),
        ("*.example.org", "https://example.org/", False),
        ("*.example.org", "https://badexample.org/", False),
        ("*.example.org:8000", "http://a.example.org:8000/", True),
        ("*", "http://anything.net/", True),
        ("*", "http://8.8.8.8/", True),
        ("*", "http://anything.net:8080/", False),
        ("*:8080", "http://anything.net:8080/", True),
        ("bücher.example", "http://xn--bcher-kva.example/", True),
        ("xn--bcher-kva.example", "http://BÜCHER。example/", True),
        ("8.8.8.8", "http://８.8.8.8/", True),
        ("8.8.8.8", "http://8.8.4.4/", False),
        ("[2001:4860:4860::8888]:8000", "http://[2001:4860:4860:0::8888]:8000/", True),
        ("[2001:4860:4860::8888]", "http://[2001:4860:4860::8844]/", False),
    ],
)
def test_patterns(pattern: str, url: str, covered: bool) -> None:
    assert HostPattern.read(pattern).covers(read_target(url)) is covered


NO_PATTERNS = words("""
    ** *.* a.*.b *a.org https://a.org a.org/ a.org:0 a.org:65536 a.org:x u@a.org ::1 *.1.2.3.4 *.[::1] [::1 0x7f.1 *. .
    [fe80::1%lo]
""")


@pytest.mark.parametrize("pattern", ["", "a b", *NO_PATTERNS])
def test_what_is_no_pattern_is_refused_at_the_start(pattern: str) -> None:
    with pytest.raises(ConfigError, match="no host to fetch images and sounds from"):
        MediaFetcher([pattern])


def test_a_host_that_is_not_allowed_is_not_even_looked_up(dialled: list[str]) -> None:
    async def scenario() -> None:
        names = Names(["127.0.0.1"])
        async with site(reply()) as one:
            fetcher = MediaFetcher([f"good.example:{one.port}"], resolve=names, admits=is_loopback)
            for url in (f"http://evil.example:{one.port}/", "http://good.example/", f"http://127.0.0.1:{one.port}/"):
                assert "--allow-media-from" in (await refusal(fetcher, url)).message
            assert one.connections == 0
        assert dialled == names.asked == []

    asyncio.run(scenario())


# Ways into the server's own network. Names are all resolved to a loopback address.

LOOPBACK = words("""
    127.0.0.1 127.0.0.1. 127.1 127.0.1 2130706433 0x7f000001 0X7F000001 0x7f.0.0.1 0X7F.1 0177.0.0.1 017700000001
    127.000.000.001 127.0.0.0x1 4294967296 0x 0 0.0.0.0 127.0.0.1.nip.io
    [::] [::1] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [::ffff:0:127.0.0.1]
    [64:ff9b::7f00:1] [64:ff9b::127.0.0.1] [64:ff9b:1::7f00:1] [2002:7f00:1::] [2002:7f00:1::7f00:1]
    [2001:0:4136:e378:8000:63bf:80ff:fffe] [::1%25lo] [::1%lo] [fe80::1%25eth0] [127.0.0.1] [0x7f000001]
    localhost LOCALHOST. a.localhost intranet ⓛⓞⓒⓐⓛⓗⓞⓢⓣ
    １２７.０.０.１ 127。0。0。1 127．0．0．1 ①②⑦.⓪.⓪.① [::ffff:１27.0.0.1] %31%32%37.0.0.1 127.0.0.1%00
""")
INSIDE = words("""
    169.254.169.254 [fd00:ec2::254] 100.100.100.200 168.63.129.16 192.0.0.192 [::ffff:a9fe:a9fe] 2852039166
    10.0.0.1 172.16.0.1 192.168.0.1 100.64.0.1 198.18.0.1 192.0.2.1 198.51.100.1 203.0.113.1 192.88.99.1 0.1.2.3
    224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 [fe80::1] [fec0::1] [fc00::1] [ff02::1] [ff0e::1] [2001:db8::1]
    [3fff::1] [5f00::1] [100::1] [4000::1] [2002:a00:1::1] [64:ff9b::a00:1] [2001::1] [2001:20::1]
""")
MISREAD = words(r"""
    http://user:password@media.example:PORT/ http://user@127.0.0.1:PORT/ http://@127.0.0.1:PORT/ http://a@b@127.0.0.1:PORT/
    http://media.example@127.0.0.1:PORT/ http://127.0.0.1:PORT\@media.example/ http://media.example\@127.0.0.1:PORT/
    http:\\127.0.0.1:PORT\ http:127.0.0.1:PORT/ http:/127.0.0.1:PORT/ //127.0.0.1:PORT/ http:///127.0.0.1:PORT/
    127.0.0.1:PORT/ http:// http://:PORT/ http://./ http://a..b:PORT/ http://-a.example:PORT/ http://a.example:PORT:80/
    http://[::1:PORT/ http://::1:PORT/ http://[]:PORT/ http://a.example:+PORT/ http://a.example:0/ http://a.example:65536/
    http://a.example:999999/ http://a.example:８０/ http://a.example:8o/ http://℀.example:PORT/ http://127.0.0.1%2f@x:PORT/
    file:///etc/passwd file://127.0.0.1/etc/passwd ftp://127.0.0.1:PORT/ gopher://127.0.0.1:PORT/_x dict://127.0.0.1:PORT/
    unix:///run/docker.sock http+unix://%2frun%2fdocker.sock/ ws://127.0.0.1:PORT/ jar:http://127.0.0.1:PORT/!/
    data:image/png;base64,AAAA javascript:alert(1) x http https:
""")
UNSEEN = [
    *("", " http://127.0.0.1:PORT/", "http://127.0.0.1:PORT/\n", "http://127.0.0.1:PORT/ HTTP/1.1\r\nX: y\r\n\r\n"),
    *("ht\ttp://127.0.0.1:PORT/", "http://127.0.\n0.1:PORT/", "http://127.0.0.1\x00.a.example:PORT/"),
    *("http://127.0.0.1\u00ad:PORT/", "http://127.0.0.1\u200b:PORT/", "http://\ud800.a:PORT/", "http://a:PORT/\udfff"),
    *(f"http://{'a' * 64}.example:PORT/", f"http://{'a.' * 130}b:PORT/", f"http://a:PORT/{'a' * 9000}"),
]
ATTACKS = [
    *(f"http://{host}:PORT/" for host in LOOPBACK),
    *(
        "https://127.0.0.1:PORT/",
        "HTTP://127.0.0.1:PORT",
        "hTTps://[::1]:PORT?x",
        "http://localhost:PORT#@media.example/",
    ),
    *(f"http://{host}/" for host in INSIDE),
    *MISREAD,
    *UNSEEN,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: ascii(attack)[:80])
def test_nothing_is_connected_for(attack: str, dialled: list[str]) -> None:
    async def scenario() -> None:
        async with site(reply()) as canary:
            # Every port is allowed, so that it is for the address alone where one is refused.
            fetcher = MediaFetcher(["*", f"*:{canary.port}"], resolve=Names(["127.0.0.1"]), timeout_s=20)
            await refusal(fetcher, attack.replace("PORT", str(canary.port)))
            assert canary.connections == 0
        assert dialled == []

    asyncio.run(scenario())


def test_the_canary_is_reached_where_loopback_is_public(dialled: list[str]) -> None:
    """Which shows that the tests above could fail."""

    async def scenario() -> None:
        async with site(reply()) as canary:
            for host in ("127.0.0.1", "localhost", "１２７。0.0.1", "[::ffff:127.0.0.1]"):
                await reaching(canary).fetch(f"http://{host}:{canary.port}/")
            assert canary.connections == len(dialled) == 4
            assert set(dialled) == {"127.0.0.1"}

    asyncio.run(scenario())


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_address_is_asked_with_brackets() -> None:
    async def scenario() -> None:
        async with site(reply(), host="::1") as one:
            fetcher = reaching(one, names=Names(["::1"]))
            await fetcher.fetch(f"http://six.example:{one.port}/")
            await fetcher.fetch(f"http://[0::1]:{one.port}/")
            assert f"Host: six.example:{one.port}\r\n" in one.heads[0]
            assert f"Host: [::1]:{one.port}\r\n" in one.heads[1]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        *(["127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["fe80::1%lo"], ["0.0.0.0"]),
        *([PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], ["2606:4700::1111", "fd00::1"], ["2606:4700::1111%lo"]),
        *([], ["no address"], [""], socket.gaierror("unknown"), UnicodeError("label too long"), TimeoutError()),
    ],
    ids=repr,
)
def test_one_address_of_a_name_that_is_not_public_refuses_them_all(
    answer: Sequence[str] | Exception, dialled: list[str]
) -> None:
    async def scenario() -> None:
        async with site(reply()) as canary:
            names = Names(answer)
            fetcher = MediaFetcher([f"*:{canary.port}"], resolve=names, timeout_s=20)
            error = await refusal(fetcher, f"http://inside.example:{canary.port}/")
            assert error.message.startswith(UNREACHABLE)
            assert names.asked == ["inside.example"]
            assert canary.connections == 0
        assert dialled == []

    asyncio.run(scenario())


def test_a_name_is_resolved_once_and_the_connection_goes_where_the_check_was(dialled: list[str]) -> None:
    """DNS rebinding: the first answer is public, every later one is the canary's."""

    async def scenario() -> None:
        names = Names(["127.0.0.2"], ["127.0.0.1"])
        async with (
            site(reply(b"public"), host="127.0.0.2") as public,
            site(reply(b"inside"), port=public.port) as canary,
        ):
            fetcher = reaching(public, names=names, admits=lambda address: str(address) == "127.0.0.2")
            assert (await fetcher.fetch(f"http://rebind.example:{public.port}/")).data == b"public"
            assert names.asked == ["rebind.example"]
            assert dialled == ["127.0.0.2"]
            # The next fetch does not take up what the first one knew, nor its connection.
            await refusal(fetcher, f"http://rebind.example:{public.port}/")
            assert canary.connections == 0
            assert public.connections == 1

    asyncio.run(scenario())


def test_the_next_address_of_a_name_is_tried_and_not_more_than_four(dialled: list[str]) -> None:
    async def scenario() -> None:
        async with site(reply()) as one:
            several = Names(["127.0.0.3", "127.0.0.4", "127.0.0.1"])
            assert (await reaching(one, names=several).fetch(f"http://h:{one.port}/")).data == b"bytes"
            assert dialled == ["127.0.0.3", "127.0.0.4", "127.0.0.1"]
            dialled.clear()
            crowd = Names([f"127.0.1.{last}" for last in range(200)])
            await refusal(reaching(one, names=crowd), f"http://h:{one.port}/")
            assert len(dialled) == 4

    asyncio.run(scenario())


def test_the_system_resolver_knows_no_search_domains_and_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        time.sleep(0.3)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    async def scenario() -> None:
        resolver = SystemResolver(2)
        looking = asyncio.create_task(resolver("inside.example"))
        begun = time.monotonic()
        await asyncio.sleep(0.01)
        assert time.monotonic() - begun < 0.25
        assert await looking == ["127.0.0.1"]
        resolver.close()

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    asyncio.run(scenario())
    assert asked == ["inside.example."]


# Redirects.


def to(location: str, status: int = 302) -> bytes:
    return reply(b"", status, location=location)


def test_redirects_are_followed_three_times_and_each_is_resolved_anew() -> None:
    async def chain(path: str, writer: asyncio.StreamWriter) -> None:
        left = int(path.strip("/"))
        writer.write(to(f"/{left - 1}", (301, 302, 303, 307, 308)[left]) if left else reply(b"end"))

    async def scenario() -> None:
        async with site(chain) as one:
            names = Names(["127.0.0.1"])
            fetcher = reaching(one, names=names)
            assert (await fetcher.fetch(f"http://h:{one.port}/3")).data == b"end"
            assert len(names.asked) == 4
            assert "more than 3 times" in (await refusal(fetcher, f"http://h:{one.port}/4")).message
            assert one.connections == 8

    asyncio.run(scenario())


LOCATIONS = words(r"""
    http://127.0.0.1:PORT/ //127.0.0.1:PORT/ http://2130706433:PORT/ http://[::1]:PORT/ http://localhost:PORT/
    http://[::ffff:127.0.0.1]:PORT/ http://inside.example:PORT/ http://169.254.169.254/ http://%31%32%37.0.0.1:PORT/
    http://u:p@other.example:PORT/ http://[::1 \\127.0.0.1:PORT\ http://other.example:1/ http://other.example:99999/
    file:///etc/passwd ftp://127.0.0.1:PORT/ gopher://127.0.0.1:PORT/ data:,x
""")


@pytest.mark.parametrize("location", ["http://a b/", *LOCATIONS])
def test_redirects_are_checked_like_any_address(location: str, dialled: list[str]) -> None:
    class Public(Names):
        """One name is at a public address, which is 127.0.0.2 here."""

        async def __call__(self, host: str) -> list[str]:
            return ["127.0.0.2"] if host == "public.example" else ["127.0.0.1"]

    async def scenario() -> None:
        async with site(reply()) as canary:
            answer = to(location.replace("PORT", str(canary.port)))
            async with site(answer, host="127.0.0.2") as public:
                fetcher = reaching(public, canary, names=Public([]), admits=lambda address: str(address) == "127.0.0.2")
                error = await refusal(fetcher, f"http://public.example:{public.port}/?start")
                assert error.message.startswith((UNREACHABLE, "The address redirects to one that this server does not"))
                assert "127.0.0" not in error.message
                assert (public.connections, canary.connections) == (1, 0)
        assert dialled == ["127.0.0.2"]

    asyncio.run(scenario())


def test_a_redirect_to_a_host_that_is_not_allowed_is_refused() -> None:
    async def scenario() -> None:
        async with site() as canary, site(to(f"http://other.example:{canary.port}/secret?token=1")) as one:
            fetcher = MediaFetcher([f"h:{one.port}"], resolve=Names(["127.0.0.1"]), admits=is_loopback)
            error = await refusal(fetcher, f"http://h:{one.port}/")
            assert "redirects to one that this server does not fetch from" in error.message
            assert "other.example" not in error.message
            assert canary.connections == 0

    asyncio.run(scenario())


# Answers that are not taken.


@pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 400, 401, 404, 500, 503])
def test_only_200_is_taken(status: int) -> None:
    async def scenario() -> None:
        answer = reply(b"" if status in (204, 304) else b"bytes", status, content_type="image/png", retry_after="1")
        async with site(answer) as one:
            assert f"status {status}" in (await refusal(reaching(one), f"http://h:{one.port}/")).message
            assert one.connections == 1  # no second try

    asyncio.run(scenario())


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip", "x"])
def test_a_compressed_body_is_refused(encoding: str) -> None:
    async def scenario() -> None:
        async with site(reply(gzip.compress(bytes(10_000_000)), content_encoding=encoding)) as one:
            assert "compressed" in (await refusal(reaching(one), f"http://h:{one.port}/")).message

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"\r\n", b"bytes", b"HTTP/1.1 200 OK\r\n", b"HTTP/9 200 OK\r\n\r\n", b"SSH-2.0-OpenSSH_9.9\r\n"),
        reply(b"ten bytes.", content_length="1000"),
        reply(b"ten bytes.", content_length="-1"),
        reply(b"ten bytes.", content_length="1e3"),
        reply(b"5\r\nbytes", transfer_encoding="chunked"),
        reply(b"zz\r\nbytes", transfer_encoding="chunked"),
        reply(gzip.compress(b"bytes"), transfer_encoding="gzip"),
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
    ids=lambda answer: repr(answer[:60]),
)
def test_what_is_no_whole_answer_is_refused(answer: bytes) -> None:
    async def scenario() -> None:
        async with site(answer) as one:
            await refusal(reaching(one), f"http://h:{one.port}/")

    asyncio.run(scenario())


def test_a_length_that_is_too_low_gives_that_many_bytes() -> None:
    async def scenario() -> None:
        async with site(reply(b"x" * 1_000_000, content_length="10")) as one:
            assert (await reaching(one, max_bytes=100).fetch(f"http://h:{one.port}/")).data == b"x" * 10

    asyncio.run(scenario())


def test_a_length_that_is_too_high_is_refused_before_the_body() -> None:
    async def only_the_head(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"", content_length="1001"))
        await writer.drain()
        await asyncio.sleep(60)

    async def scenario() -> None:
        async with site(only_the_head) as one:
            error = await refusal(reaching(one, max_bytes=1000), f"http://h:{one.port}/")
            assert "more than 1000 bytes" in error.message

    asyncio.run(scenario())


@pytest.mark.parametrize("piece", [b"x" * 65536, b"1\r\nx\r\n" * 1000], ids=["large pieces", "tiny pieces"])
def test_a_body_without_end_is_cut_off(piece: bytes) -> None:
    sent = 0

    async def endless(path: str, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        chunked = b"Transfer-Encoding: chunked\r\n" if piece.startswith(b"1") else b""
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n%b\r\n" % chunked)
        while True:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async def scenario() -> None:
        async with site(endless) as one:
            error = await refusal(reaching(one, max_bytes=1_000_000), f"http://h:{one.port}/")
            assert ("small pieces" if piece.startswith(b"1") else "more than 1000000 bytes") in error.message
        assert sent < 30_000_000  # what the system buffers comes on top of what was read

    asyncio.run(scenario())


# Time.


def slowly(text: bytes, *, after: bytes = b"") -> Answer:
    async def answer(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(after)
        for byte in text:
            await asyncio.sleep(0.05)
            writer.write(bytes([byte]))
            await writer.drain()
        await asyncio.sleep(60)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        slowly(b""),
        slowly(reply(b"x" * 1000)),
        slowly(b"x" * 1000, after=reply(b"", content_length="1000")),
        slowly(b"", after=b"HTTP/1.1 200 OK\r\n\r\nall but the end"),
        slowly(b"HTTP/1.1 100 Continue\r\n\r\n" * 50),
    ],
    ids=["says nothing", "slow head", "slow body", "no end", "asks to go on"],
)
def test_all_of_a_fetch_has_one_limit_of_time(answer: Answer) -> None:
    async def scenario() -> None:
        async with site(answer) as one:
            begun = time.monotonic()
            error = await refusal(reaching(one, timeout_s=0.5), f"http://h:{one.port}/")
            assert error.message.startswith(UNREACHABLE)
            assert 0.4 < time.monotonic() - begun < 5

    asyncio.run(scenario())


def test_redirects_share_the_limit() -> None:
    async def later(path: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(to("/again"))

    async def scenario() -> None:
        async with site(later) as one:
            error = await refusal(reaching(one, timeout_s=0.5), f"http://h:{one.port}/")
            assert error.message.startswith(UNREACHABLE)

    asyncio.run(scenario())


def test_names_that_nobody_resolves_have_it_too(dialled: list[str]) -> None:
    async def never(host: str) -> list[str]:
        await asyncio.sleep(60)
        raise AssertionError

    begun = time.monotonic()
    error = asyncio.run(refusal(MediaFetcher(["*"], resolve=never, timeout_s=0.3), "http://slow.example/"))
    assert error.message.startswith(UNREACHABLE)
    assert time.monotonic() - begun < 5
    assert dialled == []


def test_no_more_run_at_once_than_may_and_the_wait_counts() -> None:
    async def later(path: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60 if path == "/forever" else 0.02)
        writer.write(reply())

    async def scenario() -> None:
        async with site(later) as one:
            fetcher = reaching(one, at_once=2)
            await asyncio.gather(*(fetcher.fetch(f"http://h:{one.port}/{index}") for index in range(10)))
            assert one.connections == 10
            assert one.most_at_once == 2
        async with site(later) as one:
            fetcher = reaching(one, at_once=1, timeout_s=0.5)
            refused = await asyncio.gather(*(refusal(fetcher, f"http://h:{one.port}/forever") for _ in range(5)))
            assert len({error.message for error in refused}) == 1
            assert one.connections == 1
            # Whoever was cut off has given up its turn.
            assert (await fetcher.fetch(f"http://h:{one.port}/")).data == b"bytes"

    asyncio.run(scenario())


def test_a_fetch_that_is_cancelled_gives_up_its_turn_and_its_connection() -> None:
    async def scenario() -> None:
        async with site(slowly(b"")) as stuck, site(reply()) as one:
            fetcher = reaching(stuck, one, at_once=1)
            leaving = asyncio.create_task(fetcher.fetch(f"http://h:{stuck.port}/"))
            while not stuck.heads:
                await asyncio.sleep(0.01)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            assert (await fetcher.fetch(f"http://h:{one.port}/")).data == b"bytes"
            await fetcher.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nothing_stays_open_when_time_is_up(scheme: str) -> None:
    async def scenario() -> None:
        async with site(slowly(b"")) as one:
            await refusal(reaching(one, timeout_s=0.3), f"{scheme}://h:{one.port}/")
            assert one.connections == 1
            async with asyncio.timeout(10):
                while one.open and scheme == "https":  # it waits for the end of a head that does not come
                    await asyncio.sleep(0.01)
        gc.collect()  # Python warns of what was not closed, and warnings are errors.

    asyncio.run(scenario())


# What is told to whom.


def test_a_client_is_told_the_same_whatever_is_or_is_not_inside(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        free = closed.getsockname()[1]

    async def scenario() -> set[str]:
        async with site(slowly(b"")) as silent, site(b"SSH-2.0\r\n") as other:
            options: dict[str, Any] = {"timeout_s": 0.5}
            inside = MediaFetcher(["*"], resolve=Names(["10.1.2.3"]), **options)
            unknown = MediaFetcher(["*"], resolve=Names(socket.gaierror("no such name")), **options)
            refused = [
                await refusal(inside, "http://secret.example/path?signature=abc"),
                await refusal(inside, "http://10.9.8.7/"),
                await refusal(unknown, "http://secret.example/"),
                await refusal(reaching(silent, **options), f"http://h:{silent.port}/"),
                await refusal(reaching(other, **options), f"http://h:{other.port}/"),
                await refusal(reaching(other, **options), f"https://h:{other.port}/"),
                await refusal(
                    MediaFetcher([f"*:{free}"], resolve=Names(["127.0.0.1"]), admits=is_loopback, **options),
                    f"http://h:{free}/",
                ),
            ]
            return {error.message for error in refused}

    with caplog.at_level(logging.INFO, "ostro.web"):
        (message,) = asyncio.run(scenario())
    assert message.startswith(UNREACHABLE)
    records = [record for record in caplog.records if record.name == "ostro.web"]
    assert {record.levelno for record in records} == {logging.INFO}
    logged = "\n".join(record.getMessage() for record in records)
    assert "http://secret.example/path: 10.1.2.3 not public" in logged
    assert "no such name" in logged
    assert "not done after 0.5 s" in logged
    assert "ConnectError" in logged
    assert "signature" not in logged
    assert len(records) == 7


def test_passwords_are_logged_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ostro.web"):
        error = asyncio.run(refusal(MediaFetcher(["*"]), "http://user:hunter2@example.org/"))
    assert "hunter2" not in caplog.text + error.message
    assert "password" in error.message


# Proxies and TLS.


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with site(reply(b"from a proxy")) as proxy, site(reply()) as one:
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
                monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy.port}")
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            fetcher = reaching(one)
            assert (await fetcher.fetch(f"http://h:{one.port}/")).data == b"bytes"
            await refusal(reaching(one, timeout_s=0.5), f"https://h:{one.port}/")
            assert proxy.connections == 0

    asyncio.run(scenario())


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "certificate.pem"
    path.write_text(CERTIFICATE)
    (tmp_path / "key.pem").write_text(KEY)
    return path


@pytest.fixture
def tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's side for the name media.example, which clients trust."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context


def test_a_pinned_connection_verifies_the_name(tls: ssl.SSLContext, dialled: list[str]) -> None:
    async def scenario() -> None:
        async with site(reply(b"secure"), tls=tls) as one:
            fetcher = reaching(one)
            assert (await fetcher.fetch(f"https://media.example:{one.port}/")).data == b"secure"
            assert dialled == ["127.0.0.1"]
            assert one.names == ["media.example"]
            for host in ("other.example", "127.0.0.1", "example"):
                error = await refusal(fetcher, f"https://{host}:{one.port}/")
                assert error.message.startswith(UNREACHABLE)
            assert len(one.heads) == 1

    asyncio.run(scenario())


def test_a_certificate_that_nobody_vouches_for_is_refused(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")

    async def scenario() -> None:
        async with site(reply(b"secure"), tls=tls) as one:
            error = await refusal(reaching(one), f"https://media.example:{one.port}/")
            assert error.message.startswith(UNREACHABLE)
            assert one.heads == []

    asyncio.run(scenario())


def test_redirects_lead_up_to_https_and_never_down_from_it(tls: ssl.SSLContext) -> None:
    async def scenario() -> None:
        async with (
            site(reply(b"secure"), tls=tls) as secure,
            site(to(f"https://media.example:{secure.port}/")) as plain,
        ):
            fetched = await reaching(plain, secure).fetch(f"http://media.example:{plain.port}/")
            assert fetched.data == b"secure"
        async with (
            site(reply(b"plain")) as plain,
            site(to(f"http://media.example:{plain.port}/"), tls=tls) as secure,
        ):
            error = await refusal(reaching(plain, secure), f"https://media.example:{secure.port}/")
            assert "redirects to one that this server does not fetch from" in error.message
            assert plain.connections == 0

    asyncio.run(scenario())


# Properties.

WORDS = "http https :// : / // @ [ ] % \\ ? # . 。 127.0.0.1 ::1 0x7f 80 example.org localhost xn-- ß 𝟙 - _ %25 0 1e3"
PIECES = st.sampled_from([*WORDS.split(), "\ud800", "\u202e", " ", "\t", "a" * 64])
URLS = st.one_of(
    st.text(),
    st.lists(PIECES).map("".join),
    st.builds("http://{}{}".format, st.text(), st.lists(PIECES).map("".join)),
    st.builds("https://{}:{}/{}".format, st.text(), st.integers(-1, 70_000), st.text()),
    st.builds("http://[{}]/{}?{}".format, st.ip_addresses(v=6), st.text(), st.text()),
)


@settings(max_examples=300)
@given(url=URLS, names=st.sampled_from([["127.0.0.1"], [], ["::"], OSError("no"), UnicodeError("no")]))
def test_any_text_is_refused_in_the_same_way(url: str, names: list[str] | Exception) -> None:
    async def scenario() -> None:
        # Addresses that happen to be public are not asked: there is no network to do it.
        fetcher = MediaFetcher(["*"], resolve=Names(names), admits=lambda address: False)
        await refusal(fetcher, url)

    asyncio.run(scenario())


@settings(max_examples=300)
@given(url=URLS)
def test_what_is_read_is_read_the_same_again(url: str) -> None:
    try:
        target = read_target(url)
    except MediaNotFetchedError:
        return
    again = f"{target.shown}{target.query}"
    assert again.isascii()
    assert again.isprintable()
    assert read_target(again) == target
    assert target.host == target.host.lower()
    assert not target.host.endswith(".")


def written(address: ipaddress.IPv4Address) -> list[str]:
    """The forms that the C library reads."""
    number, parts = int(address), address.packed
    short = f"{parts[0]}.{number & 0xFFFFFF}", f"{parts[0]}.{parts[1]}.{number & 0xFFFF}"
    octal, hexadecimal = [f"0{part:o}" for part in parts], [f"0x{part:x}" for part in parts]
    return [str(number), hex(number), f"0{number:o}", *short, ".".join(octal), ".".join(hexadecimal)]


@given(address=st.ip_addresses(v=4))
def test_an_ipv4_address_has_one_form(address: ipaddress.IPv4Address) -> None:
    assert read_host(str(address)) == str(address)
    assert read_host(f"{address}.") == str(address)
    for text in written(address):
        assert socket.inet_aton(text) == address.packed
        assert read_host(text) in (None, str(address))


@given(address=st.ip_addresses(v=4))
def test_an_ipv6_address_is_no_more_public_than_the_ipv4_address_in_it(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    mapped = ipaddress.IPv6Address(0xFFFF << 32 | number)
    nat64 = ipaddress.IPv6Address(0x64FF9B << 96 | number)
    assert is_public(mapped) == is_public(nat64) == is_public(address)
    teredo = ipaddress.IPv6Address(0x20010000 << 96 | number ^ 0xFFFFFFFF)
    for wrapped in (ipaddress.IPv6Address(number), ipaddress.IPv6Address(0x2002 << 112 | number << 80), teredo):
        assert not is_public(wrapped)


@pytest.mark.parametrize(
    "text", [PUBLIC, "8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::1", "64:ff9b::808:808"]
)
def test_public_addresses_are(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))
