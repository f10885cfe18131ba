"""A call from its body to its last byte: held, routed, tried, streamed, settled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from ostro.core.errors import NotReadyError, OstroError
from ostro.core.money import MICROS
from ostro.gateway.asking import Endpoint
from ostro.gateway.billing import guessed
from ostro.gateway.cache import AnswerCache, key_of, wish_of
from ostro.gateway.calls import Admission, Call, ask_of, changes_for, headers_for
from ostro.gateway.config import GatewayConfig
from ostro.gateway.events import BrokenStreamError, read_event, usage_of
from ostro.gateway.hedging import first_answer
from ostro.gateway.nodes import VIA_HEADER, Node, Nodes
from ostro.gateway.overview import Overview
from ostro.gateway.replies import Reply, refuse
from ostro.gateway.sending import Answer, NodeFailedError, Relayed, UpstreamError, send
from ostro.observability.gateway import GatewayMetrics
from ostro.routing.nodes import Choice, Spill, rank
from ostro.storage.keys import Key
from ostro.storage.ledger import Ledger
from ostro.web.disconnect import ClientGoneError, while_connected
from ostro.web.sse import sse_data

log = logging.getLogger("ostro.gateway")


class Answering:
    """Answers calls of known callers."""

    def __init__(self, config: GatewayConfig, nodes: Nodes, ledger: Ledger, metrics: GatewayMetrics) -> None:
        routing = config.settings.routing
        self.config = config
        self.nodes = nodes
        self.metrics = metrics
        self.overview = Overview()
        self.cache = AnswerCache(config.settings.cache)
        self.spill = Spill(routing.spill_above, routing.spill_below)
        self._admission = Admission(config, nodes, ledger)
        self._own_name = ledger.replica
        self.running = 0
        self.draining = False

    async def __call__(
        self, endpoint: Endpoint, key: Key, data: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """The client that leaves ends the call, which is charged as served."""
        self.running += 1
        try:
            with contextlib.suppress(ClientGoneError):
                await while_connected(Request(scope, receive), self._answer(endpoint, key, data, scope, send))
        finally:
            self.running -= 1

    async def drain(self, grace_s: float) -> bool:
        """Take no new calls, and wait for those that run; False where some still do after `grace_s` seconds."""
        self.draining = True
        try:
            async with asyncio.timeout(grace_s):
                while self.running:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return False
        return True

    async def _answer(self, endpoint: Endpoint, key: Key, data: bytes, scope: Scope, send_: Send) -> None:
        headers = Headers(scope=scope)
        via = [*filter(None, headers.get(VIA_HEADER, "").split(",")), self._own_name]
        try:
            if self.draining:
                raise NotReadyError("The gateway is shutting down. Ask another one, or try again in a moment.")
            call = self._admission.read(endpoint, key, data, scope["state"]["request_id"], via)
            call.wish = wish_of(headers, call.asked, self.config.settings.cache)
            # Before anything is held: what no node could answer costs nothing and counts for nothing.
            choices = self._choices(call)
            await call.billing.hold()
        except OstroError as error:
            code = await refuse(error, scope, send_)
            self.metrics.refused(code)
            self.overview.refused(code)
            return
        reply = Reply(call, scope, send_)
        outcome = "disconnect"
        try:
            outcome = await self._from_cache(call, reply) or await self._serve(call, choices, reply)
        except OstroError as error:
            outcome = "error"
            await reply.fail(error)
        except Exception:  # a defect of ours: whoever is outside answers it, the ledger has it as an error
            outcome = "error"
            raise
        finally:
            if not call.billing.is_settled:
                # Not waited for: the client is gone, or has been told.
                settling = asyncio.ensure_future(call.billing.settle(outcome))
                settling.add_done_callback(_swallow)
            self._note(call, outcome)

    async def _from_cache(self, call: Call, reply: Reply) -> str | None:
        """None where it has no answer."""
        if not (call.wish.reads or call.wish.keeps):
            return None
        call.cache_key = key_of(call.key.tenant, call.asked)
        kept = self.cache.find(call.cache_key) if call.wish.reads else None
        if kept is None:
            return None
        call.kept, reply.age_s = kept, self.cache.age_s(kept)
        call.billing.was_kept(kept.node, kept.used, self.config.settings.cache.price)
        await call.billing.settle("cached")
        if not call.asked.stream:
            await reply.whole(200, kept.pieces[0], {})
            return "cached"
        await reply.begin_stream({})
        for piece in kept.pieces:
            await reply.event(piece)
        await reply.end_stream()
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
        if call.first_byte is not None:
            self.metrics.first_byte(call.asked.model, call.first_byte)
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

    async def _serve(self, call: Call, choices: Sequence[Choice], reply: Reply) -> str:
        """Returns how it ended."""
        failures: list[str] = []
        rest = deque(choices)
        hedge_s = self.config.settings.routing.hedge_s

        async def ask(choice: Choice) -> Answer | Relayed:
            try:
                return await self._ask(call, choice, is_first=not failures)
            except NodeFailedError as error:
                failures.append(self._failed(call, choice.node, error))
                raise

        while rest:
            try:
                call.choice, answer = await first_answer(ask, rest.popleft(), rest, hedge_s)
            except NodeFailedError:
                continue
            if isinstance(answer, Relayed):
                return await self._relay(call, answer, reply)
            try:
                async with answer:
                    return await self._pass_on(call, answer, reply)
            except (NodeFailedError, UpstreamError, BrokenStreamError) as error:
                failures.append(self._failed(call, answer.node.name, error))
                if call.began:
                    raise
        raise NotReadyError(f"No node answered: {'; '.join(failures)}. Try again later.", retry_after=1.0)

    async def _ask(self, call: Call, choice: Choice, *, is_first: bool) -> Answer | Relayed:
        if choice.node not in self.nodes:
            raise NodeFailedError("was removed", is_its_fault=False)
        node = self.nodes[choice.node]
        self.metrics.routed(node.name, call.asked.model, time.perf_counter() - call.started if is_first else None)
        told = headers_for(call, node), changes_for(call, node)
        return await send(self.nodes, node, call.asked, self.config.settings, *told)

    def _failed(self, call: Call, name: str, error: OstroError) -> str:
        """Note it; returns what is told of it where nobody else answers."""
        said = error.message if isinstance(error, NodeFailedError) else f"failed: {error.message.rstrip('.')}"
        log.warning("%s: node '%s' %s.", call.request_id, name, said)
        self.metrics.node_failed(name)
        if name in self.nodes and not (isinstance(error, NodeFailedError) and not error.is_its_fault):
            self.nodes[name].breaker.failed_now(time.monotonic())
        return f"{name} {said}"

    def _choices(self, call: Call) -> Sequence[Choice]:
        routing = self.config.settings.routing
        views = self.nodes.views(call.asked)
        choices = rank(ask_of(call), views, spilling=self.spill.update(views), affinity=routing.affinity)
        return choices[: 1 + routing.retries]

    async def _relay(self, call: Call, refused: Relayed, reply: Reply) -> str:
        await call.billing.settle("refused")
        await reply.whole(refused.status, refused.body, refused.headers)
        return "refused"

    async def _pass_on(self, call: Call, answer: Answer, reply: Reply) -> str:
        if call.asked.stream:
            if not answer.is_stream:
                raise NodeFailedError("answered with something else than a stream")
            return await self._stream(call, answer, reply)
        data, body = await answer.body()
        answer.node.breaker.succeeded()
        call.billing.was_served(answer.node.name)
        call.billing.counts(0, usage_of(body) or guessed(body, call.billing))
        await call.billing.settle("ok")
        changed = self._renamed(call, answer.node, body)
        if call.asked.endpoint.path == "/v1/infer":
            body["cost"] = call.billing.charge / MICROS
            changed = True
        data = msgspec.json.encode(body) if changed else data
        self._keep(call, [data])
        await reply.whole(200, data, answer.headers)
        return "ok"

    def _renamed(self, call: Call, node: Node, body: dict[str, Any]) -> bool:
        """Clients read the name that they asked for."""
        if node.models[call.asked.model].upstream is None or "model" not in body:
            return False
        body["model"] = call.asked.model
        return True

    async def _stream(self, call: Call, answer: Answer, reply: Reply) -> str:
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
                await reply.begin_stream(answer.headers)
            billing.counts(said.pieces, said.usage)
            if call.most_tokens is not None and billing.completion_tokens > call.most_tokens:
                raise BrokenStreamError(f"The node went on beyond the {call.most_tokens} tokens that it was asked for.")
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
            await reply.event(event)
        if not call.began:
            raise NodeFailedError("ended its stream before it began")
        if not is_over:
            raise BrokenStreamError("The node's stream ended before the answer did. What came of it is not all.")
        self._keep(call, sent)
        await reply.end_stream()
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


def _swallow(settling: asyncio.Future[None]) -> None:
    if not settling.cancelled() and (error := settling.exception()) is not None:
        log.error("A call could not be settled yet: %s", error)
