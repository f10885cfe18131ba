"""A call from its body to its last byte: held, routed, tried, streamed, settled."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from ostro.core.errors import NotReadyError, OstroError, StorageError
from ostro.core.ids import new_id
from ostro.core.money import MICROS, usd
from ostro.gateway.asking import Asked, Endpoint, read_asked
from ostro.gateway.billing import Billing
from ostro.gateway.cache import AnswerCache, Kept, Wish, key_of, wish_of
from ostro.gateway.config import GatewayConfig, Tier
from ostro.gateway.events import BrokenStreamError, Counted, read_event, usage_of
from ostro.gateway.keyring import NotAllowedError
from ostro.gateway.nodes import VIA_HEADER, Node, Nodes
from ostro.gateway.outward import outward
from ostro.gateway.overview import Overview
from ostro.gateway.sending import Answer, NodeFailedError, Relayed, UpstreamError, send
from ostro.observability.gateway import GatewayMetrics
from ostro.routing.nodes import Ask, Choice, Spill, rank
from ostro.storage.keys import Key
from ostro.storage.ledger import Hold, Ledger, Limits, RateLimitError, Room
from ostro.web.errors import error_chunk, error_response
from ostro.web.sse import sse_data

log = logging.getLogger("ostro.gateway")

_JSON = b"application/json"
_EVENTS = b"text/event-stream"
# No token has more bytes than this on the average of a text, so a prompt has at least so many.
_LONGEST_TOKEN = 16
# Bytes a token, on the average: for answers whose node tells no usage.
_USUAL_TOKEN = 4
_MOST_GATEWAYS = 8
_NO_WISH = Wish(reads=False, keeps=False)


@dataclass
class Call:
    """One request under way."""

    key: Key
    tier: Tier
    asked: Asked
    billing: Billing
    request_id: str
    via: str
    started: float
    choice: Choice | None = None
    wish: Wish = _NO_WISH
    cache_key: bytes = b""
    kept: Kept | None = None
    began: bool = False
    first_byte: float | None = None


class CycleError(OstroError):
    """Gateways that have each other for nodes."""

    status = 508
    type = "invalid_request_error"
    code = "gateway_cycle"


class Answering:
    """Answers calls of known callers."""

    def __init__(self, config: GatewayConfig, nodes: Nodes, ledger: Ledger, metrics: GatewayMetrics) -> None:
        routing = config.settings.routing
        self.config = config
        self.nodes = nodes
        self.ledger = ledger
        self.metrics = metrics
        self.overview = Overview()
        self.cache = AnswerCache(config.settings.cache)
        self.spill = Spill(routing.spill_above, routing.spill_below)

    async def __call__(
        self, endpoint: Endpoint, key: Key, data: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """The client that leaves ends the call, which is charged as served."""
        working = asyncio.ensure_future(self._answer(endpoint, key, data, scope, send))
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                return
            working.result()
        finally:
            leaving.cancel()
            working.cancel()

    async def _answer(self, endpoint: Endpoint, key: Key, data: bytes, scope: Scope, send_: Send) -> None:
        headers = Headers(scope=scope)
        via = [*filter(None, headers.get(VIA_HEADER, "").split(",")), self.ledger.replica]
        try:
            call = self._read(endpoint, key, data, scope["state"]["request_id"], via)
            call.wish = wish_of(headers, call.asked, self.config.settings.cache)
            # Before anything is held: what no node could answer costs nothing and counts for nothing.
            choices = self._choices(call)
            await call.billing.hold()
        except OstroError as error:
            told = outward(error)
            self.metrics.refused(told.code)
            self.overview.refused(told.code)
            response = error_response(told)
            if isinstance(error, RateLimitError):
                response.headers.update(_room_headers(error.room))
            await response(scope, _nothing, send_)
            return
        outcome = "disconnect"
        try:
            outcome = await self._from_cache(call, send_) or await self._serve(call, choices, send_)
        except OstroError as error:
            outcome = "error"
            await self._fail(call, error, scope, send_)
        except Exception:
            outcome = "error"
            raise
        finally:
            if not call.billing.is_settled:
                # Not waited for: the client is gone, or has been told.
                settling = asyncio.ensure_future(call.billing.settle(outcome))
                settling.add_done_callback(_swallow)
            self._note(call, outcome)

    async def _from_cache(self, call: Call, send_: Send) -> str | None:
        """None where it has no answer."""
        if not (call.wish.reads or call.wish.keeps):
            return None
        call.cache_key = key_of(call.key.tenant, call.asked)
        kept = self.cache.find(call.cache_key) if call.wish.reads else None
        if kept is None:
            return None
        call.kept = kept
        call.billing.was_kept(kept.node, kept.used, self.config.settings.cache.price)
        await call.billing.settle("cached")
        if not call.asked.stream:
            await self._whole(call, 200, kept.pieces[0], send_, {})
            return "cached"
        await self._begin_stream(call, {}, send_)
        for piece in kept.pieces:
            await send_({"type": "http.response.body", "body": piece, "more_body": True})
        await send_({"type": "http.response.body", "body": b""})
        return "cached"

    def _keep(self, call: Call, pieces: Sequence[bytes]) -> None:
        if call.wish.keeps and call.billing.node is not None:
            self.cache.keep(call.cache_key, tuple(pieces), call.billing.used, call.billing.node)

    def _note(self, call: Call, outcome: str) -> None:
        billing = call.billing
        seconds = time.perf_counter() - call.started
        self.overview.ended(
            billing.node if outcome != "cached" else None,
            outcome,
            seconds,
            call.first_byte,
            billing.completion_tokens,
            billing.charge,
        )
        self.metrics.ended(
            call.asked.model,
            call.asked.endpoint.path,
            outcome,
            seconds,
            tier=call.tier.name,
            prompt=billing.prompt_tokens if billing.node is not None else 0,
            completion=billing.completion_tokens,
            usd=billing.charge / MICROS,
        )

    def _read(self, endpoint: Endpoint, key: Key, data: bytes, request_id: str, via: Sequence[str]) -> Call:
        if len(set(via)) < len(via):
            raise CycleError(
                "The request has come back to a gateway that it came from: one of them is a node of another, in a "
                "circle. Take it out of the nodes of one."
            )
        if len(via) > _MOST_GATEWAYS:
            raise CycleError(f"The request has come through more than {_MOST_GATEWAYS} gateways.")
        asked = read_asked(endpoint, data, self._default_model(key))
        if not key.may_use(asked.model):
            raise NotAllowedError(f"This key may not use '{asked.model}'.", param="model")
        tier = self.config.tiers.get(key.tier)
        if tier is None:
            raise NotAllowedError(f"This key is of the tier '{key.tier}', which the gateway does not have any more.")
        limits = Limits(
            requests_per_minute=_either(key.requests_per_minute, tier.limits.requests_per_minute),
            tokens_per_minute=_either(key.tokens_per_minute, tier.limits.tokens_per_minute),
            concurrency=_either(key.concurrency, tier.limits.concurrency),
        )
        most = self._most_tokens(asked) * asked.choices if endpoint.answers else 0
        hold = Hold(
            call_id=new_id("call"),
            key_id=key.id,
            tenant=key.tenant,
            model=asked.model[:128],
            endpoint=endpoint.path,
            amount=tier.price.of(asked.prompt_tokens, most),
            tokens=asked.prompt_tokens + most,
            limits=limits,
        )
        guess = -(-asked.prompt_tokens // _USUAL_TOKEN)
        billing = Billing(self.ledger, hold, tier.price, guess)
        return Call(key, tier, asked, billing, request_id, ",".join(via), time.perf_counter())

    def _default_model(self, key: Key) -> str | None:
        names = (name for node in self.nodes for name in node.models)
        return next((name for name in names if key.may_use(name)), None)

    def _most_tokens(self, asked: Asked) -> int:
        if asked.max_tokens is not None:
            return asked.max_tokens
        sizes = [node.models[asked.model].max_output for node in self.nodes if asked.model in node.models]
        return max(sizes, default=0)

    async def _serve(self, call: Call, choices: Sequence[Choice], send_: Send) -> str:
        """Returns how it ended."""
        failures: list[tuple[str, str]] = []
        for choice in choices:
            if choice.node not in self.nodes:
                continue
            node = self.nodes[choice.node]
            call.choice = choice
            self.metrics.routed(node.name, call.asked.model, None if failures else time.perf_counter() - call.started)
            try:
                answer = await send(
                    self.nodes,
                    node,
                    call.asked,
                    self.config.settings,
                    self._headers(call, node),
                    self._changes(call, node),
                )
                if isinstance(answer, Relayed):
                    return await self._relay(call, answer, send_)
                async with answer:
                    return await self._pass_on(call, answer, send_)
            except NodeFailedError as error:
                log.warning("%s: node '%s' %s.", call.request_id, node.name, error.message)
                failures.append((node.name, error.message))
                self.metrics.node_failed(node.name)
                if error.is_its_fault:
                    node.breaker.failed_now(time.monotonic())
            except (UpstreamError, BrokenStreamError) as error:
                node.breaker.failed_now(time.monotonic())
                self.metrics.node_failed(node.name)
                if call.began:
                    raise
                log.warning("%s: node '%s': %s", call.request_id, node.name, error.message)
                failures.append((node.name, f"failed: {error.message.rstrip('.')}"))
        raise NotReadyError(
            "No node answered: " + "; ".join(f"{name} {why}" for name, why in failures) + ". Try again later.",
            retry_after=1.0,
        )

    def _choices(self, call: Call) -> Sequence[Choice]:
        asked, routing = call.asked, self.config.settings.routing
        views = self.nodes.views(asked)
        ask = Ask(
            model=asked.model,
            modalities=asked.modalities,
            tokens=asked.prompt_tokens // _LONGEST_TOKEN if not asked.modalities else 0,
            tools=asked.tools,
            region=call.key.region,
            beginning=asked.beginning,
            priority=call.tier.priority + call.key.priority,
        )
        choices = rank(ask, views, spilling=self.spill.update(views), affinity=routing.affinity)
        return choices[: 1 + routing.retries]

    def _headers(self, call: Call, node: Node) -> dict[str, str]:
        headers = {"x-request-id": call.request_id, VIA_HEADER: call.via}
        if node.settings.kind == "ostro":
            headers["x-ostro-tenant"] = call.key.tenant
        return headers

    def _changes(self, call: Call, node: Node) -> dict[str, Any]:
        """Fields of the body that are this gateway's to decide."""
        asked = call.asked
        changes: dict[str, Any] = {}
        if asked.stream and asked.endpoint.usage_option:
            options = asked.body.get("stream_options")
            changes["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
            if node.settings.kind == "ostro":
                changes["stream_options"]["continuous_usage_stats"] = True
        if asked.max_tokens is None and asked.endpoint.most and self._counts_tokens(call):
            changes[asked.endpoint.most[-1]] = self._most_tokens(asked)
        if node.settings.kind == "ostro":
            # A node serves low numbers first. Nobody overtakes others by a field of the body.
            given = asked.body.get("priority")
            own = max(0, given) if isinstance(given, int) and not isinstance(given, bool) else 0
            priority = own - (call.tier.priority + call.key.priority)
            if priority or given is not None:
                changes["priority"] = max(-100, min(100, priority))
        return changes

    def _counts_tokens(self, call: Call) -> bool:
        """Whether an answer of any length could cost more, or use more, than was held for it."""
        return bool(call.tier.price.completion) or call.billing.limits.tokens_per_minute is not None

    async def _relay(self, call: Call, refused: Relayed, send_: Send) -> str:
        await call.billing.settle("refused")
        await self._whole(call, refused.status, refused.body, send_, refused.headers)
        return "refused"

    async def _pass_on(self, call: Call, answer: Answer, send_: Send) -> str:
        if call.asked.stream:
            if not answer.is_stream:
                raise NodeFailedError("answered with something else than a stream")
            return await self._stream(call, answer, send_)
        data, body = await answer.body()
        answer.node.breaker.succeeded()
        call.billing.was_served(answer.node.name)
        call.billing.counts(0, usage_of(body) or _guessed(body, call.billing))
        await call.billing.settle("ok")
        changed = self._renamed(call, answer.node, body)
        if call.asked.endpoint.path == "/v1/infer":
            body["cost"] = call.billing.charge / MICROS
            changed = True
        data = msgspec.json.encode(body) if changed else data
        self._keep(call, [data])
        await self._whole(call, 200, data, send_, answer.headers)
        return "ok"

    def _renamed(self, call: Call, node: Node, body: dict[str, Any]) -> bool:
        """Clients read the name that they asked for."""
        if node.models[call.asked.model].upstream is None or "model" not in body:
            return False
        body["model"] = call.asked.model
        return True

    async def _whole(self, call: Call, status: int, data: bytes, send_: Send, more: Mapping[str, str]) -> None:
        headers = self._answer_headers(call, _JSON, more)
        headers.append((b"content-length", str(len(data)).encode()))
        headers.append((b"x-ostro-cost-usd", usd(call.billing.charge).encode()))
        self._begins(call)
        await send_({"type": "http.response.start", "status": status, "headers": headers})
        await send_({"type": "http.response.body", "body": data})

    def _answer_headers(self, call: Call, kind: bytes, more: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", kind), (b"x-ostro-call", call.billing.call_id.encode())]
        if call.kept is not None:
            headers.append((b"x-ostro-cache", b"hit"))
            headers.append((b"age", str(self.cache.age_s(call.kept)).encode()))
        elif call.wish.reads or call.wish.keeps:
            headers.append((b"x-ostro-cache", b"miss"))
        if call.choice is not None:
            headers.append((b"x-ostro-node", call.choice.node.encode()))
            headers.append((b"x-ostro-reason", call.choice.reason.encode()))
        if call.billing.room is not None:
            headers += [(name.encode(), value.encode()) for name, value in _room_headers(call.billing.room).items()]
        return headers + [(name.encode(), value.encode("latin-1", "replace")) for name, value in more.items()]

    async def _stream(self, call: Call, answer: Answer, send_: Send) -> str:
        billing, renames = call.billing, answer.node.models[call.asked.model].upstream is not None
        wants_usage = call.asked.wants_usage or not call.asked.endpoint.usage_option
        is_over = False
        sent: list[bytes] = []
        async for event in answer.events():
            said = read_event(event)
            if said.failed and not call.began:
                raise NodeFailedError("began its answer with an error")
            if not call.began:
                answer.node.breaker.succeeded()
                billing.was_served(answer.node.name)
                await billing.note()
                await self._begin_stream(call, answer.headers, send_)
            billing.counts(said.pieces, said.usage)
            if said.last:
                is_over = True
                await billing.settle("ok")
            elif said.pieces:
                await billing.may_send()
            if said.only_usage and not wants_usage:
                continue
            if said.payload is not None and (renames or "usage" in said.payload):
                event = self._rewritten(call, event, said.payload, renames=renames)
            if call.wish.keeps:
                sent.append(event)
            await send_({"type": "http.response.body", "body": event, "more_body": True})
        if not call.began:
            raise NodeFailedError("ended its stream before it began")
        if not is_over:
            raise BrokenStreamError("The node's stream ended before the answer did. What came of it is not all.")
        self._keep(call, sent)
        await send_({"type": "http.response.body", "body": b""})
        return "ok"

    def _rewritten(self, call: Call, event: bytes, payload: dict[str, Any], *, renames: bool) -> bytes:
        """Usage in chunks that have more to say was this gateway's wish, and the model's name the node's."""
        if call.asked.endpoint.usage_option and payload.get("choices") and "usage" in payload:
            del payload["usage"]
        if renames:
            for holder in (payload, payload.get("response"), payload.get("message")):
                if isinstance(holder, dict) and "model" in holder:
                    holder["model"] = call.asked.model
        name = event.partition(b"\n")[0] + b"\n" if event.startswith(b"event:") else b""
        return name + sse_data(payload)

    async def _begin_stream(self, call: Call, more: Mapping[str, str], send_: Send) -> None:
        headers = self._answer_headers(call, _EVENTS, more)
        headers += [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]
        self._begins(call)
        await send_({"type": "http.response.start", "status": 200, "headers": headers})

    def _begins(self, call: Call) -> None:
        call.began = True
        call.first_byte = time.perf_counter() - call.started
        self.metrics.first_byte(call.asked.model, call.first_byte)

    async def _fail(self, call: Call, error: OstroError, scope: Scope, send_: Send) -> None:
        error = outward(error)
        if error.status >= 500:
            log.warning("%s: %s", call.request_id, error.message)
        if not call.billing.is_settled:
            try:
                await call.billing.settle("error")
            except StorageError as trouble:
                log.error("%s: %s", call.request_id, trouble.message)
        if not call.began:
            await error_response(error)(scope, _nothing, send_)
            return
        await send_({"type": "http.response.body", "body": sse_data(error_chunk(error)), "more_body": True})
        await send_({"type": "http.response.body", "body": b""})


def _either(own: int | None, tiers: int | None) -> int | None:
    return own if own is not None else tiers


def _guessed(body: Mapping[str, Any], billing: Billing) -> Counted:
    """For an answer whose node does not say what it used: never free."""
    text = 0
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            text += len(msgspec.json.encode(choice.get("message") or choice.get("text") or ""))
    return Counted(billing.prompt_tokens, -(-text // _USUAL_TOKEN))


def _room_headers(room: Room) -> dict[str, str]:
    headers: dict[str, str] = {}
    reset = f"{room.reset_s:.0f}s"
    for of, limit, left in (
        ("requests", room.limits.requests_per_minute, room.requests_left),
        ("tokens", room.limits.tokens_per_minute, room.tokens_left),
    ):
        if limit is not None:
            headers |= {
                f"x-ratelimit-limit-{of}": str(limit),
                f"x-ratelimit-remaining-{of}": str(left),
                f"x-ratelimit-reset-{of}": reset,
            }
    return headers


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nothing() -> dict[str, Any]:
    return {"type": "http.disconnect"}


def _swallow(settling: asyncio.Future[None]) -> None:
    if not settling.cancelled() and (error := settling.exception()) is not None:
        log.error("A call could not be settled yet: %s", error)
