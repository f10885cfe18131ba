"""One hub or mirror over HTTP: what is asked of it, and what its refusals mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

import httpx2

from ostro import __version__
from ostro.core.errors import HubError
from ostro.weights.hub.listing import Listing, parse_listing

DEFAULT_ENDPOINT = "https://huggingface.co"
MAX_REDIRECTS = 8
MAX_LISTING_BYTES = 64 * 1024 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)


class RefusedError(HubError):
    """The endpoint understood and said no (unknown repository, no access): asking it again changes nothing."""


class UnavailableError(HubError):
    """The endpoint did not answer, broke off or is overloaded. `retry_after`: seconds it asked to wait, or None."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Endpoint:
    """A hub's base URL. `token` goes to this URL's own origin and nowhere else."""

    url: str
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise HubError(f"'{self.url}' is not the address of a hub; give one such as {DEFAULT_ENDPOINT}.")

    def listing(self, client: httpx2.Client, repo: str, revision: str) -> Listing:
        """What `repo` holds at a branch, tag or commit. Raises RefusedError, UnavailableError, HubError."""
        url = f"{self.url}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
        what = f"{repo} at '{revision}'"
        with self._get(client, url, what, {}) as response:
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_LISTING_BYTES:
                    raise HubError(f"{self.url} answers about {what} without end; it is not a hub.")
        return parse_listing(repo, bytes(body))

    @contextmanager
    def open_file(
        self, client: httpx2.Client, listing: Listing, path: str, offset: int = 0
    ) -> Iterator[httpx2.Response]:
        """The response to `GET …/resolve/{commit}/{path}` from byte `offset` on: status 200 (all) or 206 (the rest)."""
        url = f"{self.url}/{listing.repo}/resolve/{listing.commit}/{quote(path)}"
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with self._get(client, url, f"{path} of {listing.repo}", headers) as response:
            yield response

    @contextmanager
    def _get(self, client: httpx2.Client, url: str, what: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        own = httpx2.URL(self.url)
        target = httpx2.URL(url)
        for _ in range(MAX_REDIRECTS + 1):
            sent = {"User-Agent": f"ostro/{__version__}", **headers}
            if self.token and _origin(target) == _origin(own):
                sent["Authorization"] = f"Bearer {self.token}"
            # Redirects are followed by hand: the token must not follow to another origin, the range must.
            with _translated(self.url, what), client.stream("GET", target, headers=sent) as response:
                if response.status_code not in _REDIRECTS:
                    self._check(response, what)
                    yield response
                    return
                target = _next(target, response, self.url)
        raise HubError(f"{self.url} redirects without end when asked for {what}.")

    def _check(self, response: httpx2.Response, what: str) -> None:
        status = response.status_code
        if status in (200, 206, 416):
            return
        if status in (401, 403):
            raise RefusedError(self._no_access(status, what))
        if status == 404:
            raise RefusedError(f"{self.url} has no {what} (404). Check the name and the revision.")
        message = f"{self.url} answered {status} when asked for {what}."
        if status == 429 or status >= 500:
            raise UnavailableError(message, _retry_after(response))
        raise RefusedError(message)

    def _no_access(self, status: int, what: str) -> str:
        repo = what.rsplit(" of ", 1)[-1].split(" at ")[0]
        if self.token:
            advice = "the token in HF_TOKEN has no access: accept the licence with its account"
        else:
            advice = "accept the licence, then set HF_TOKEN to a token of yours with read access"
        return (
            f"{self.url} refuses {what} ({status}): the model is gated, private or does not exist. "
            f"Open {self.url}/{repo} and {advice}."
        )


@contextmanager
def _translated(url: str, what: str) -> Iterator[None]:
    try:
        yield
    except httpx2.TimeoutException as error:
        raise UnavailableError(f"{url} did not answer in time when asked for {what}.") from error
    except httpx2.RequestError as error:
        raise UnavailableError(f"The connection to {url} broke while asking for {what} ({error}).") from error
    except httpx2.InvalidURL as error:
        raise HubError(f"{url} sent a redirect that is no address ({error}).") from error


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    default = {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, url.port or default


def _next(current: httpx2.URL, response: httpx2.Response, endpoint: str) -> httpx2.URL:
    target = current.join(response.headers.get("Location", ""))
    if target.scheme not in ("http", "https") or (current.scheme == "https" and target.scheme != "https"):
        raise HubError(f"{endpoint} redirects from {current.scheme} to {target.scheme}, which is refused.")
    return target


def _retry_after(response: httpx2.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None


def new_client() -> httpx2.Client:
    """A client with the time limits of a pull: 10 s to connect, 30 s without a byte."""
    return httpx2.Client(timeout=httpx2.Timeout(30.0, connect=10.0), follow_redirects=False)


def configured_endpoints(mirrors: tuple[str, ...] = ()) -> tuple[Endpoint, ...]:
    """`HF_ENDPOINT` (or the hub) with `HF_TOKEN`, then `OSTRO_MIRRORS`, then `mirrors`; each once.

    Only the first gets the token: a mirror is somebody else's machine.
    """
    main = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).strip().rstrip("/")
    others = [*os.environ.get("OSTRO_MIRRORS", "").split(","), *mirrors]
    urls = dict.fromkeys([main, *(url.strip().rstrip("/") for url in others if url.strip())])
    token = os.environ.get("HF_TOKEN", "").strip() or None
    return tuple(Endpoint(url, token if url == main else None) for url in urls)
