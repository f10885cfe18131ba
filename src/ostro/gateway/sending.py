"""One request to one node: what it answers, or why another node should be asked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from ostro.core.errors import OstroError
from ostro.gateway.asking import Asked
from ostro.gateway.config import GatewaySettings
from ostro.gateway.events import BrokenStreamError, EventCutter
from ostro.gateway.nodes import Node, Nodes

log = logging.getLogger("ostro.gateway")

_LONGEST_ERROR = 64 * 1024
# What a node says of its own, or of the way to it, and not of the request: clients are not told to log in elsewhere.
_NODES_OWN = (401, 403, 404, 407, 408)
_PASSED_HEADERS = ("x-ostro-ignored", "retry-after")


class UpstreamError(OstroError):
    """A node's answer is none that can be passed on."""

    status = 502
    code = "bad_upstream"


class NodeFailedError(OstroError):
    """This node did not answer; another may. is_its_fault: whether it should be left alone where that happens again."""

    def __init__(self, why: str, *, is_its_fault: bool = True) -> None:
        super().__init__(why)
        self.is_its_fault = is_its_fault


@dataclass(frozen=True)
class Relayed:
    """What a node refused, and why: told as it came."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Answer:
    """A node's answer that has begun. Use it within `async with`: it ends the connection where it was not read to its
    end, and counts the request as over."""

    def __init__(self, node: Node, response: aiohttp.ClientResponse, settings: GatewaySettings) -> None:
        self.node = node
        self.headers = {name: value for name in _PASSED_HEADERS if (value := response.headers.get(name))}
        self._response = response
        self._settings = settings
        self._ends = asyncio.get_running_loop().time() + node.settings.timeout_s

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.node.in_flight -= 1
        self.node.breaker.gave_up()  # where it did not succeed, the next request may try
        self._response.close()

    @property
    def is_stream(self) -> bool:
        return _media_type(self._response) == "text/event-stream"

    async def body(self) -> tuple[bytes, dict[str, Any]]:
        """A whole answer, as bytes and read. Raises NodeFailedError for what is none."""
        if _media_type(self._response) != "application/json":
            raise NodeFailedError(f"answered with {_media_type(self._response) or 'no type'} instead of JSON")
        data = await _read(self._response, self._settings.max_answer, self._settings.gap_s)
        try:
            found = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NodeFailedError("answered with JSON that is broken") from error
        if not isinstance(found, dict):
            raise NodeFailedError("answered with JSON that is no object")
        self._release()
        return data, found

    async def events(self) -> AsyncIterator[bytes]:
        """Whole events, each with its blank line. Raises BrokenStreamError and UpstreamError."""
        cutter = EventCutter()
        size = 0
        while True:
            data = await self._some()
            if not data:
                break
            size += len(data)
            if size > self._settings.max_answer:
                raise BrokenStreamError(f"The node sent more than {self._settings.max_answer} bytes.")
            for event in cutter.cut(data):
                yield event
        if cutter.rest.strip():
            raise BrokenStreamError("The node's stream ended within an event.")
        self._release()

    async def _some(self) -> bytes:
        try:
            now = asyncio.get_running_loop().time()
            async with asyncio.timeout_at(min(now + self._settings.gap_s, self._ends)):
                return await self._response.content.readany()
        except TimeoutError:
            if asyncio.get_running_loop().time() >= self._ends:
                raise UpstreamError(f"The answer took more than {self.node.settings.timeout_s:g} s.") from None
            raise UpstreamError(f"The node was silent for {self._settings.gap_s:g} s in its answer.") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(f"The connection to the node broke: {type(error).__name__}.") from error

    def _release(self) -> None:
        """It was read to its end: the connection may be used again."""
        self._response.release()


async def send(
    nodes: Nodes,
    node: Node,
    asked: Asked,
    settings: GatewaySettings,
    headers: Mapping[str, str],
    changes: Mapping[str, Any],
) -> Answer | Relayed:
    """Raises NodeFailedError where another node may be asked. changes: fields of the body that this gateway decides."""
    why = node.why_not()
    if why is not None:  # since it was chosen
        raise NodeFailedError(why, is_its_fault=False)
    model = node.models[asked.model]
    body = {**asked.body, **changes}
    if model.upstream is not None or "model" not in body:
        body["model"] = model.upstream or model.name
    data = msgspec.json.encode(body)
    node.breaker.began(time.monotonic())
    node.in_flight += 1
    response = None
    try:
        response = await _post(nodes, node, asked.endpoint.path, data, headers, settings)
        relayed = await _refused(node, response, settings)
    except BaseException:  # cancelled as well: it is not in flight any more
        node.in_flight -= 1
        node.breaker.gave_up()
        if response is not None:
            response.close()
        raise
    if relayed is not None:
        node.in_flight -= 1
        return relayed
    return Answer(node, response, settings)


async def _post(
    nodes: Nodes, node: Node, path: str, data: bytes, headers: Mapping[str, str], settings: GatewaySettings
) -> aiohttp.ClientResponse:
    everything = {**node.headers, **headers, "content-type": "application/json"}
    for attempt in range(2):
        try:
            async with asyncio.timeout(min(settings.first_byte_s, node.settings.timeout_s)):
                return await nodes.session.post(node.base + path, data=data, headers=everything, allow_redirects=False)
        except aiohttp.ClientConnectorError as error:
            node.is_away(f"cannot be reached ({error.os_error.strerror or error})")
            raise NodeFailedError(node.why_away, is_its_fault=False) from error
        except aiohttp.ServerDisconnectedError as error:
            # A connection that was kept open may have been closed from the other end in this very moment.
            if attempt:
                raise NodeFailedError("closed the connection without an answer") from error
        except TimeoutError as error:
            raise NodeFailedError("did not begin to answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NodeFailedError(f"failed ({type(error).__name__})") from error
    raise AssertionError("the second attempt returns or raises")


async def _refused(node: Node, response: aiohttp.ClientResponse, settings: GatewaySettings) -> Relayed | None:
    """None where the node answers. Raises NodeFailedError where another one might."""
    if response.status == 200:
        return None
    data = b""
    if _media_type(response) == "application/json":
        data = await _read(response, _LONGEST_ERROR, settings.gap_s)
    response.close()
    why = f"answered with status {response.status}"
    headers = {name: value for name in _PASSED_HEADERS if (value := response.headers.get(name))}
    if response.status == 503:
        node.is_away("says that it is not ready")
        raise NodeFailedError(why, is_its_fault=False)
    if response.status == 429:  # full, and well
        raise NodeFailedError("has no room", is_its_fault=False)
    if response.status in _NODES_OWN:
        log.error("Node '%s' %s; look at its key and the names of its models.", node.name, why)
        raise NodeFailedError(why)
    if response.status >= 500 or response.status < 400 or not _is_object(data):
        raise NodeFailedError(why)
    node.breaker.succeeded()
    return Relayed(response.status, data, headers)


async def _read(response: aiohttp.ClientResponse, most: int, gap_s: float) -> bytes:
    """Raises NodeFailedError for more than `most` bytes, and for what does not come."""
    pieces: list[bytes] = []
    size = 0
    try:
        while True:
            async with asyncio.timeout(gap_s):
                piece = await response.content.readany()
            if not piece:
                return b"".join(pieces)
            size += len(piece)
            if size > most:
                raise NodeFailedError(f"answered with more than {most} bytes")
            pieces.append(piece)
    except TimeoutError as error:
        raise NodeFailedError(f"was silent for {gap_s:g} s in its answer") from error
    except (aiohttp.ClientError, OSError) as error:
        raise NodeFailedError(f"broke off its answer ({type(error).__name__})") from error


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(data), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _media_type(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()
