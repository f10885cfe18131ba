"""The nodes behind a gateway: what is known of each, and the connections to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

from ostro.core.money import Price
from ostro.gateway.breaker import Breaker
from ostro.gateway.config import NodeSettings, RoutingSettings
from ostro.gateway.signals import Signals, read_signals
from ostro.routing.nodes import ModelView, NodeView

if TYPE_CHECKING:
    from ostro.gateway.asking import Asked

log = logging.getLogger("ostro.gateway")

_CONNECT_S = 3.0
# Passes of one token cost money at those that sell tokens.
_OTHERS_PROBE_S = 30.0
_LONGEST_METRICS = 4 * 1024 * 1024
# Of probes of a node that is away.
_AWAY_S = 0.5
# Names the gateways that a request came through.
VIA_HEADER = "x-ostro-via"


class Node:
    """One upstream. `ready`: whether its last probe, or a request since, was answered."""

    def __init__(self, settings: NodeSettings, routing: RoutingSettings, key: str | None, cost: Price) -> None:
        self.settings = settings
        self.name = settings.name
        self.cost = cost
        self.models = {model.name: model for model in settings.models}
        self.breaker = Breaker(routing.breaker_failures, routing.breaker_s)
        self.signals = Signals()
        self.in_flight = 0
        self.draining = False
        self.ready = False
        self.why_away = "was not asked yet"
        self.base = settings.url.rstrip("/").removesuffix("/v1")
        self._key = key
        self._views = {
            model.name: ModelView(modalities=frozenset(model.modalities), context=model.context, tools=model.tools)
            for model in settings.models
        }

    @property
    def headers(self) -> dict[str, str]:
        """Of every request to it."""
        return {} if self._key is None else {"authorization": f"Bearer {self._key}"}

    @property
    def load(self) -> float:
        return self.signals.load(self.settings.capacity, self.in_flight)

    def view(self, asked: Asked | None = None) -> NodeView:
        """As routing sees it. asked: what its cost is of."""
        return NodeView(
            name=self.name,
            models=self._views,
            device=self.settings.device,
            region=self.settings.region,
            load=self.load,
            why_not=self.why_not(),
            cost=0 if asked is None else self.cost.of(asked.prompt_tokens, asked.max_tokens or 0),
        )

    def why_not(self) -> str | None:
        """What keeps requests away from it; None where nothing does."""
        if self.draining:
            return "is being drained"
        if not self.ready:
            return self.why_away
        if self.in_flight >= self.settings.capacity:
            return f"has all {self.settings.capacity} requests that it takes"
        return self.breaker.why_not(time.monotonic())

    def is_away(self, why: str) -> None:
        """It cannot be reached, or says that it is not ready: nothing is sent until a probe is answered."""
        if self.ready:
            log.warning("Node '%s' %s.", self.name, why)
        self.ready, self.why_away = False, why

    def is_back(self) -> None:
        if not self.ready:
            log.info("Node '%s' answers.", self.name)
        self.ready = True
        self.breaker.succeeded()


class Nodes:
    """All of them, watched. `start` before, `close` after; in one event loop."""

    def __init__(self, routing: RoutingSettings, *, via: str) -> None:
        """via: this gateway, to others that a request of its own might come back from."""
        self.routing = routing
        self._via = via
        self._nodes: dict[str, Node] = {}
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __getitem__(self, name: str) -> Node:
        return self._nodes[name]

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "start() comes first"
        return self._session

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, keepalive_timeout=30.0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"accept-encoding": "identity", "user-agent": "ostro-gateway", VIA_HEADER: self._via},
            trust_env=False,
        )
        for node in self._nodes.values():
            self._watch(node)

    async def close(self) -> None:
        for task in self._watching.values():
            task.cancel()
        await asyncio.gather(*self._watching.values(), return_exceptions=True)
        self._watching.clear()
        if self._session is not None:
            await self._session.close()

    def add(self, node: Node) -> None:
        """Also while the gateway runs; one of the same name is replaced."""
        self._nodes[node.name] = node
        if self._session is not None:
            self._watch(node)

    async def remove(self, name: str, grace_s: float) -> bool:
        """Send it nothing new, wait for what runs there, and forget it. False where some of it still ran."""
        node = self._nodes[name]
        node.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while node.in_flight:
                    await asyncio.sleep(0.05)
        idle = node.in_flight == 0
        if self._nodes.get(name) is node:
            del self._nodes[name]
            watching = self._watching.pop(name, None)
            if watching is not None:
                watching.cancel()
        return idle

    def views(self, asked: Asked | None = None) -> list[NodeView]:
        return [node.view(asked) for node in self._nodes.values()]

    def _watch(self, node: Node) -> None:
        before = self._watching.get(node.name)
        if before is not None:
            before.cancel()
        self._watching[node.name] = asyncio.create_task(self._probe_on(node), name=f"probe of {node.name}")

    async def _probe_on(self, node: Node) -> None:
        while True:
            why = await self.probe(node)
            if why is None:
                node.is_back()
            else:
                node.is_away(why)
            await asyncio.sleep(self._pause(node))

    def _pause(self, node: Node) -> float:
        if not node.ready:
            return min(_AWAY_S, self.routing.probe_s)
        return self.routing.probe_s if node.settings.kind == "ostro" else max(self.routing.probe_s, _OTHERS_PROBE_S)

    async def probe(self, node: Node) -> str | None:
        """A real pass of one token, and the node's own signals; what is wrong, None where nothing is."""
        try:
            async with asyncio.timeout(self.routing.probe_timeout_s):
                if node.settings.kind == "ostro":
                    why = await self._ask(node, "GET", "/health/ready")
                    if why is None:
                        node.signals = await self._signals(node)
                    return why
                model = node.settings.models[0]
                body = {
                    "model": model.upstream or model.name,
                    "messages": [{"role": "user", "content": "1"}],
                    "max_tokens": 1,
                }
                return await self._ask(node, "POST", "/v1/chat/completions", body)
        except TimeoutError:
            return f"gave no token within {self.routing.probe_timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return f"cannot be reached ({type(error).__name__}: {error})"

    async def _ask(self, node: Node, method: str, path: str, body: Mapping[str, Any] | None = None) -> str | None:
        data = None if body is None else msgspec.json.encode(body)
        headers = node.headers | ({} if data is None else {"content-type": "application/json"})
        async with self.session.request(
            method, node.base + path, data=data, headers=headers, allow_redirects=False
        ) as response:
            await _read(response)
            return None if response.status == 200 else f"answered its health check with {response.status}"

    async def _signals(self, node: Node) -> Signals:
        async with self.session.get(node.base + "/metrics", headers=node.headers, allow_redirects=False) as response:
            if response.status != 200:
                return Signals()
            return read_signals((await _read(response)).decode("utf-8", "replace"))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """To its end. Raises ValueError for more than anybody has to tell."""
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > _LONGEST_METRICS:
            raise ValueError(f"more than {_LONGEST_METRICS} bytes")
    return bytes(data)
