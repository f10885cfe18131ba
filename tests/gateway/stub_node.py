"""A node that does what a message's text tells it to: `python stub_node.py PORT`, or `StubNode` within a test.

"say WORDS": that; "count N": N tokens, one a chunk; otherwise "ok". What goes wrong: "html" (500 with a page), "page"
(200 with a page), "busy" (429), "away" (503), "denied" (401), "bad" (400), "cut N" (the stream breaks off after N
tokens), "endless" (a body without an end), "garbage" (events that are no JSON), "error" (an error in mid-stream),
"silent" (nothing comes), "pause S N" (N tokens, S seconds apart), "nousage", "lies" (usage that cannot be).
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

Send = Callable[[dict[str, Any]], Awaitable[None]]


class StubNode:
    """requests: bodies that came, with their headers under "headers". ready: whether its health check is answered.
    does: what it does whatever it is told."""

    def __init__(self, port: int = 0, metrics: str = "") -> None:
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests: list[dict[str, Any]] = []
        self.metrics = metrics
        self.ready = True
        self.does: str | None = None
        self.probes = 0
        self.left = 0
        config = uvicorn.Config(
            self._app, log_level="error", access_log=False, lifespan="off", http="httptools", interface="asgi3"
        )
        self._server = uvicorn.Server(config)
        self._server.config.timeout_graceful_shutdown = 1
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.listener]}, daemon=True)

    def __enter__(self) -> StubNode:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self.listener.close()

    def run(self) -> None:
        self._server.run(sockets=[self.listener])

    async def _app(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        path = scope["path"]
        if path == "/health/ready":
            self.probes += 1
            await _whole(send, b"{}", status=200 if self.ready else 503)
        elif path == "/metrics":
            await _whole(send, self.metrics.encode(), kind=b"text/plain")
        else:
            data = b""
            while True:
                message = await receive()
                data += message.get("body", b"")
                if not message.get("more_body"):
                    break
            body = json.loads(data)
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            self.requests.append({**body, "path": path, "headers": headers})
            answering = asyncio.ensure_future(_answer(body, self.does or _asked(body), send))
            leaving = asyncio.ensure_future(_gone(receive))
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self.left += 1
                answering.cancel()
            leaving.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _asked(body: dict[str, Any]) -> str:
    messages = body.get("messages")
    text = messages[-1]["content"] if messages else body.get("prompt") or body.get("inputs") or body.get("input")
    return text if isinstance(text, str) else json.dumps(text)


async def _answer(body: dict[str, Any], told: str, send: Send) -> None:
    word, *rest = told.split() or ["ok"]
    if word == "html":
        return await _whole(send, b"<html>" * 1000, status=500, kind=b"text/html")
    if word == "page":
        return await _whole(send, b"<html>", kind=b"text/html")
    if word in ("busy", "away", "denied", "bad"):
        status = {"busy": 429, "away": 503, "denied": 401, "bad": 400}[word]
        error = {"error": {"message": f"stub: {word}", "type": "x", "param": "messages", "code": "stub"}}
        return await _whole(send, json.dumps(error).encode(), status=status)
    if word == "silent":
        await asyncio.sleep(60)
    if body.get("stream"):
        return await _stream(body, word, rest, send)
    if word == "endless":
        return await _endless(send, b"application/json")
    tokens = int(rest[-1]) if word in ("count", "pause", "cut") else 1
    if word == "pause":
        await asyncio.sleep(float(rest[0]) * tokens)
    said = " ".join(rest) if word == "say" else "t " * tokens if word in ("count", "pause") else "ok"
    usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
    answer: dict[str, Any] = {
        "id": "stub",
        "object": "chat.completion",
        "created": 1,
        "model": body.get("model"),
        "choices": [{"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": -5, "completion_tokens": 10**15} if word == "lies" else usage,
    }
    if word == "nousage":
        del answer["usage"]
    if "inputs" in body:
        answer |= {"text": said, "labels": [], "cost": None}
    return await _whole(send, json.dumps(answer).encode())


async def _stream(body: dict[str, Any], word: str, rest: list[str], send: Send) -> None:
    kind = b"text/html" if word == "page" else b"text/event-stream"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    if word == "endless":
        while True:
            await _piece(send, b"x" * 65536)
            await asyncio.sleep(0)
    if word == "garbage":
        await _piece(send, b"data: {nonsense\n\n")
        return await _piece(send, b"", more=False)
    tokens = int(rest[-1]) if word in ("count", "cut", "pause", "error") else 1
    options = body.get("stream_options") or {}
    for index in range(tokens):
        if word == "pause":
            await asyncio.sleep(float(rest[0]))
        chunk: dict[str, Any] = {"id": "stub", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        chunk["choices"] = [{"index": 0, "delta": {"content": "t "}, "finish_reason": None}]
        if options.get("continuous_usage_stats"):
            chunk["usage"] = {"prompt_tokens": 7, "completion_tokens": index + 1, "total_tokens": 8 + index}
        await _piece(send, b"data: " + json.dumps(chunk).encode() + b"\n\n")
    if word == "error":
        await _piece(send, b'data: {"error": {"message": "stub: broke", "code": "x"}}\n\n')
    elif word != "cut":
        last: dict[str, Any] = {"id": "stub", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        last["choices"] = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
        await _piece(send, b"data: " + json.dumps(last).encode() + b"\n\n")
        if options.get("include_usage"):
            last |= {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7}}
            await _piece(send, b"data: " + json.dumps(last).encode() + b"\n\n")
        await _piece(send, b"data: [DONE]\n\n")
    await _piece(send, b"", more=False)


async def _endless(send: Send, kind: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    while True:
        await _piece(send, b"x" * 65536)
        await asyncio.sleep(0)


async def _whole(send: Send, data: bytes, *, status: int = 200, kind: bytes = b"application/json") -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def _piece(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


if __name__ == "__main__":
    node = StubNode(int(sys.argv[1]))
    print(node.port, flush=True)
    node.run()
