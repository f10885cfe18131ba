"""Addresses on the web that clients send in place of bytes: read strictly, and held against what an operator allows.

Nothing is repaired. What two readers might understand differently (a backslash, an escaped host, an octal number) is
refused, so that the host that is checked is the host that is asked.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote

import idna

from ostro.core.errors import ConfigError, InvalidRequestError

_MAX_URL = 8192
_MAX_HOST = 253
_PORTS = {"http": 80, "https": 443}
# What stays as it is in paths and queries (RFC 3986, pchar), and the mark of what is escaped already.
_SAFE = "/%:=&~+!$,;'()*@"
# Spaces, control characters, halves of surrogate pairs, and the backslash, which browsers read as a slash.
_NEVER = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029\ud800-\udfff]")
_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::([0-9]{0,5}))?")
# Underscores are in no host name by the book, but in some that hold files.
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
# What is an IPv4 address to the C library or to a browser, in one of its forms (WHATWG URL, "ends in a number").
_NUMBER_AT_END = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")


class MediaNotFetchedError(InvalidRequestError):
    """An address that nothing is fetched from, or that gives nothing.

    detail: for the server's log, not for the client: it may tell what is in the server's network.
    """

    code = "media_not_fetched"

    def __init__(self, message: str, *, detail: str | None = None) -> None:
        super().__init__(message)
        self.detail = detail or message


@dataclass(frozen=True)
class Target:
    """What is asked of whom. host: a name in lower case, as DNS takes it, without a dot at its end; or an IP address
    without brackets. path and query: escaped; the query has its question mark, or is empty."""

    scheme: str
    host: str
    port: int
    path: str
    query: str = ""

    @property
    def authority(self) -> str:
        """Host and port, as in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """For logs: without the query, which may hold a signature."""
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True)
class HostPattern:
    """Hosts that may be asked. host: a name or an IP address, "*." and a name for everything below it, "*" for all.
    port: the only one that may be asked there; None for 80 and 443."""

    host: str
    port: int | None = None

    @classmethod
    def read(cls, text: str) -> HostPattern:
        """Raises ConfigError.

        >>> HostPattern.read("*.Example.org"), HostPattern.read("[2001:4860:4860::8888]:8443")
        (HostPattern(host='*.example.org', port=None), HostPattern(host='2001:4860:4860::8888', port=8443))
        """
        split = _AUTHORITY.fullmatch(text)
        port = int(split[2]) if split and split[2] else None
        if split and (port is None or 0 < port < 65536):
            if split[1] == "*":
                return cls("*", port)
            above = "*." if split[1].startswith("*.") else ""
            host = read_host(split[1].removeprefix(above))
            if host is not None and not (above and is_address(host)):
                return cls(above + host, port)
        raise ConfigError(
            f"{text!r} is no host to fetch images and sounds from. Write 'example.org', '*.example.org' for all below "
            "it, or '*' for every public host, each with ':port' for another port than 80 and 443."
        )

    def covers(self, target: Target) -> bool:
        """Whether the target is one of these hosts, at a port that may be asked."""
        if target.port not in ((self.port,) if self.port is not None else _PORTS.values()):
            return False
        if self.host.startswith("*"):
            return self.host == "*" or (target.host.endswith(self.host[1:]) and not is_address(target.host))
        return target.host == self.host


def read_target(url: str) -> Target:
    """Raises MediaNotFetchedError for what is no http or https address, has a password, or can be misread.

    >>> read_target("HTTPS://Example.ORG.:443/ä.png?signature=x#top").shown
    'https://example.org/%C3%A4.png'
    """
    if len(url) > _MAX_URL:
        raise MediaNotFetchedError(f"The address is over {_MAX_URL} characters long.")
    if _NEVER.search(url):
        raise MediaNotFetchedError("The address holds spaces, backslashes or control characters. Escape them.")
    split = _URL.fullmatch(url)
    if split is None:
        raise MediaNotFetchedError("Images and sounds are fetched from addresses with http:// and https:// only.")
    if "@" in split[2]:
        raise MediaNotFetchedError("The address holds a user or a password. Nothing is fetched with those.")
    authority = _AUTHORITY.fullmatch(split[2])
    host = read_host(authority[1]) if authority else None
    if authority is None or host is None:
        raise MediaNotFetchedError("The address names no host, or not in the form that DNS has for it.")
    scheme = split[1].lower()
    port = int(authority[2]) if authority[2] else _PORTS[scheme]
    return Target(scheme, host, port, quote(split[3], safe=_SAFE) or "/", _escaped_query(split[4]))


def read_host(text: str) -> str | None:
    """A host in the one form that is compared and asked; None for what is none.

    IPv4 addresses have four decimal numbers here: other forms (0x7f.1, 2130706433, 010.0.0.1) are readings of the C
    library, and no address that anybody publishes is written so.

    >>> read_host("Bücher.example."), read_host("[::FFFF:1.2.3.4]"), read_host("１０。0.0.1"), read_host("0x7f.1")
    ('xn--bcher-kva.example', '::ffff:102:304', '10.0.0.1', None)
    """
    if len(text) > _MAX_HOST + 1:
        return None
    if text.startswith("["):
        return _address_of(text[1:-1], ipaddress.IPv6Address) if text.endswith("]") else None
    name = text.lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode()  # all digits and dots of Unicode become those of ASCII
        except UnicodeError:
            return None
    name = name.removesuffix(".")
    if len(name) > _MAX_HOST or not _NAME.fullmatch(name):
        return None
    return _address_of(name, ipaddress.IPv4Address) if _NUMBER_AT_END.fullmatch(name) else name


def is_address(host: str) -> bool:
    """Whether what `read_host` gave is an IP address."""
    return ":" in host or _NUMBER_AT_END.fullmatch(host) is not None


def _address_of(text: str, kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> str | None:
    """Compressed, in lower case; None with a zone, which names an interface of this machine."""
    if "%" in text:
        return None
    try:
        return kind(text).compressed
    except ValueError:
        return None


def _escaped_query(query: str | None) -> str:
    return "" if query is None else "?" + quote(query[1:], safe=f"{_SAFE}?")
