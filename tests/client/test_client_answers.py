"""What answers hold beside their text reaches the clients, whole and streamed, from a node that calls and thinks."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from nodes import Node, running_node, scripted_node

from ostro.client import AsyncClient, ChatDelta, Client
from ostro.client.results import chat_result, delta_of
from ostro.core.errors import (
    APIConnectionError,
    APIError,
    InvalidRequestError,
    ModelNotFoundError,
    NotReadyError,
    QueueFullError,
)

SCRIPT = {
    "both": '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[ARGS]{}',
    "think": "[THINK]It is June.[/THINK]Warm.",
    "21 degrees": "It is warm.",
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("weather", "now")
]


@pytest.fixture(scope="module")
def scripted() -> Iterator[Node]:
    with scripted_node(SCRIPT) as node:
        yield node


def joined(deltas: list[ChatDelta]) -> list[tuple[str, str, str]]:
    calls: dict[int, tuple[str, str, str]] = {}
    for delta in deltas:
        for piece in delta.tool_calls:
            before = calls.get(piece.index, ("", "", ""))
            calls[piece.index] = (before[0] + piece.id, before[1] + piece.name, before[2] + piece.arguments)
    return [calls[index] for index in sorted(calls)]


def test_calls_over_two_turns(scripted: Node) -> None:
    with Client(endpoint=scripted.url) as client:
        messages: list[Any] = [{"role": "user", "content": "both"}]
        whole = client.chat(messages, tools=TOOLS)
        assert whole.finish_reason == "tool_calls"
        assert [(call.name, json.loads(call.arguments)) for call in whole.tool_calls] == [
            ("weather", {"city": "Paris"}),
            ("now", {}),
        ]
        deltas = list(client.chat(messages, tools=TOOLS, stream=True))
        assert [call[1:] for call in joined(deltas)] == [(call.name, call.arguments) for call in whole.tool_calls]
        assert all(len(call[0]) == 9 for call in joined(deltas))
        assert deltas[-1].usage is not None
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in whole.tool_calls
        ]
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "21 degrees"} for call in whole.tool_calls]
        assert client.chat(messages, tools=TOOLS).text == "It is warm."


def test_reasoning_is_apart(scripted: Node) -> None:
    with Client(endpoint=scripted.url) as client:
        whole = client.chat([{"role": "user", "content": "think"}])
        assert (whole.reasoning, whole.text) == ("It is June.", "Warm.")
        assert whole.usage.reasoning_tokens > 1
        chunks = client.chat([{"role": "user", "content": "think"}], prompt_mode="reasoning")
        assert (chunks.reasoning, chunks.text) == ("It is June.", "Warm.")

    async def stream() -> list[ChatDelta]:
        async with AsyncClient(endpoint=scripted.url) as client:
            found = await client.chat([{"role": "user", "content": "think"}], stream=True)
            return [delta async for delta in found]

    deltas = asyncio.run(stream())
    assert "".join(delta.reasoning for delta in deltas) == "It is June."
    assert "".join(delta.text for delta in deltas) == "Warm."


def test_other_servers_shapes_are_read() -> None:
    body = {
        "choices": [{"message": {"role": "assistant", "content": None, "reasoning": "so"}, "finish_reason": "stop"}]
    }
    assert (chat_result(body).text, chat_result(body).reasoning) == ("", "so")
    assert chat_result({"choices": [{"text": "plain"}]}).text == "plain"
    assert delta_of('data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}') is None
    assert delta_of('data: {"choices": [{"text": "a"}]}') == ChatDelta("a")
    assert delta_of(": comment") is None


class Script(BaseHTTPRequestHandler):
    """A server that answers a chat with the lines that stand in the prompt."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = body["messages"][-1]["content"].encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def other() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Script) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def told(**fields: object) -> str:
    return f"data: {json.dumps(fields)}\n\n"


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (told(error={"message": "no", "status": 503, "code": "load_failed", "retry_after": 7}), NotReadyError, "no"),
        (told(error={"message": "no", "status": 400}), InvalidRequestError, "no"),
        (told(error={"message": "no", "code": 429}), QueueFullError, "no"),
        (told(error={"message": "no", "code": "model_not_found"}), ModelNotFoundError, "no"),
        (told(error={"message": "no", "type": "invalid_request_error"}), InvalidRequestError, "no"),
        (told(error={"message": "no", "type": "odd", "code": True}), APIError, "no"),
        (told(error="boom"), APIError, "boom"),
        (told(error={}, object="error", message="flat", code=400), InvalidRequestError, "flat"),
        (told(object="error", message="flat", type="rate_limit_error"), QueueFullError, "flat"),
        ("data: <html>\n\n", APIError, "no JSON"),
        ("data: 3\n\n", APIError, "no JSON"),
        (told(choices=[{"delta": {"content": "half an ans"}}]), APIConnectionError, "ended before"),
        ("", APIConnectionError, "ended before"),
    ],
)
def test_what_goes_wrong_in_a_stream_is_an_error_of_its_kind(
    other: str, said: str, kind: type[Exception], message: str
) -> None:
    async def ask() -> None:
        async with AsyncClient(endpoint=other) as client:
            async for _ in await client.chat([{"role": "user", "content": said}], stream=True):
                pass

    with Client(endpoint=other) as client, pytest.raises(kind, match=message) as caught:
        list(client.chat([{"role": "user", "content": said}], stream=True))
    assert getattr(caught.value, "retry_after", None) in (None, 1.0, 5.0, 7)
    with pytest.raises(kind, match=message):
        asyncio.run(ask())


def test_a_stream_is_whole_with_its_last_chunk_or_its_last_line(other: str) -> None:
    text = told(choices=[{"delta": {"content": "all"}}])
    for end in (told(choices=[{"delta": {}, "finish_reason": "stop"}]), "data: [DONE]\n\n", "data:[DONE]\n\n"):
        with Client(endpoint=other) as client:
            deltas = list(client.chat([{"role": "user", "content": text + end}], stream=True))
        assert "".join(delta.text for delta in deltas) == "all"


def test_a_refusal_after_the_stream_opened_is_of_its_kind() -> None:
    one = {"weights": 4, "kv": 400 * 2**20, "overhead": 0}
    models = {"first": {"model": "m", "footprint": one}, "never": {"model": "takes 1.5 missing", "footprint": one}}
    with running_node(models=models, pool={"budget": 900 * 2**20}, heartbeat_s=0.1) as node:
        with Client(endpoint=node.url) as client, pytest.raises(NotReadyError, match="could not be loaded") as caught:
            list(client.chat([{"role": "user", "content": "x"}], model="never", stream=True))
        assert caught.value.retry_after > 1
