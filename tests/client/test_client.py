"""`Client` and `AsyncClient` against real servers."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from fake_engine import CRASH, SLOW
from nodes import Node, running_node, until

from ostro.client import AsyncClient, ChatDelta, Client
from ostro.core.errors import (
    APIConnectionError,
    APIError,
    AuthenticationError,
    ConfigError,
    DeadlineExceededError,
    EngineDeadError,
    InvalidRequestError,
    ModelNotFoundError,
    OstroError,
    QueueFullError,
)

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with Client(endpoint=node.url, max_retries=0) as made:
        yield made


def test_infer(client: Client) -> None:
    result = client.infer(inputs={"text": "hello"}, mode="auto", max_tokens=6, seed=0)
    assert result.text == "hello"
    assert result.labels == []
    assert result.route == "edge"
    assert "only endpoint" in result.reason
    assert (result.usage.prompt_tokens, result.usage.completion_tokens, result.usage.cached_tokens) == (6, 6, 3)
    assert result.cost == 0.0
    assert result.latency_ms > 0


@pytest.mark.parametrize(
    ("inputs", "param"),
    [
        ({"text": "x", "image": b"..."}, "inputs.image"),
        ({"audio": b"..."}, "inputs.audio"),
        ({}, "inputs.text"),
        ({"text": ""}, "inputs.text"),
        ({"text": 3}, "inputs.text"),
    ],
)
def test_inputs_are_never_dropped_silently(client: Client, inputs: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        client.infer(inputs=inputs)
    assert refused.value.param == param


def test_chat_complete_and_models(client: Client) -> None:
    answer = client.chat(MESSAGES, max_tokens=6, seed=0)
    assert (answer.text, answer.finish_reason, answer.model) == ("hello", "length", "fake")
    assert client.complete("hey", max_tokens=4, seed=0).text == "hey"
    assert client.complete([65, 66], max_tokens=2, seed=0).text == "AB"
    assert client.models() == ["fake"]


def test_streamed_chat(client: Client) -> None:
    deltas = list(client.chat(MESSAGES, stream=True, max_tokens=6, seed=0))
    assert all(isinstance(delta, ChatDelta) for delta in deltas)
    assert "".join(delta.text for delta in deltas) == "hello"
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == 6


def test_leaving_a_stream_stops_the_server(client: Client, node: Node) -> None:
    with client.chat([{"role": "user", "content": f"{chr(SLOW)}and long"}], stream=True) as stream:
        next(iter(stream))
        assert node.metric("vllm:num_requests_running") == 1
    until(lambda: node.metric("vllm:num_requests_running") == 0)


def test_errors_are_the_trees_own(client: Client) -> None:
    with pytest.raises(InvalidRequestError) as bad:
        client.chat(MESSAGES, temperature=-1)
    assert (bad.value.param, bad.value.status) == ("temperature", 400)
    with pytest.raises(ModelNotFoundError, match="'fake'"):
        client.chat(MESSAGES, model="nope")
    with pytest.raises(InvalidRequestError) as long:
        client.complete([65] * 30_000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(DeadlineExceededError):
        client.complete([SLOW], timeout=0.1, max_tokens=100)
    with pytest.raises(DeadlineExceededError):
        list(client.chat([{"role": "user", "content": chr(SLOW)}], stream=True, timeout=1.5, max_tokens=400))


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_node(api_keys=["k"]) as locked:
        for key in (None, "wrong"):
            with Client(api_key=key, endpoint=locked.url) as stranger, pytest.raises(AuthenticationError):
                stranger.models()
        with Client(api_key="k", endpoint=locked.url) as known:
            assert known.models() == ["fake"]
        monkeypatch.setenv("OSTRO_API_KEY", "k")
        with Client(endpoint=f"{locked.url}/v1") as from_environment:
            assert from_environment.models() == ["fake"]


def test_a_dead_engine_is_tried_again_and_a_lost_stream_is_told() -> None:
    with running_node() as mortal, Client(endpoint=mortal.url, max_retries=4) as client:
        with client.chat([{"role": "user", "content": "x"}], stream=True, max_tokens=500) as stream:
            deltas = iter(stream)
            next(deltas)
            with pytest.raises(EngineDeadError):  # noqa: PT012 - the death and its report
                with Client(endpoint=mortal.url, max_retries=0) as other, pytest.raises(EngineDeadError):
                    other.complete([CRASH])
                list(deltas)
        assert client.complete("ok", max_tokens=3, seed=0).text == "ok"


class _Scripted(BaseHTTPRequestHandler):
    """Answers from a script of (status, headers, body), and notes when it was asked."""

    script: ClassVar[list[tuple[int, dict[str, str], str]]] = []
    times: ClassVar[list[float]] = []

    def do_GET(self) -> None:
        self.times.append(time.monotonic())
        status, headers, body = self.script.pop(0)
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_GET

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def scripted() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Scripted)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    _Scripted.times.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


_MODELS = (200, {}, '{"data": [{"id": "m"}]}')


def test_retry_after_is_honoured(scripted: str) -> None:
    _Scripted.script[:] = [(429, {"retry-after": "1"}, "{}"), (503, {"retry-after": "0"}, "{}"), _MODELS]
    with Client(endpoint=scripted) as client:
        assert client.models() == ["m"]
    first, second, third = _Scripted.times
    assert second - first >= 1.0
    assert third - second < second - first


def test_retries_end(scripted: str) -> None:
    _Scripted.script[:] = [(429, {"retry-after": "0"}, '{"error": {"message": "m", "code": "c"}}')] * 3
    with Client(endpoint=scripted, max_retries=2) as client, pytest.raises(QueueFullError, match=r"^m$") as full:
        client.models()
    assert (full.value.code, full.value.retry_after, len(_Scripted.times)) == ("c", 0.0, 3)


@pytest.mark.parametrize("status", [400, 401, 402, 404, 500, 504])
def test_other_errors_are_not_tried_again(scripted: str, status: int) -> None:
    _Scripted.script[:] = [(status, {"x-request-id": "r1"}, '{"message": "flat", "code": "c", "param": "p"}')]
    with Client(endpoint=scripted) as client, pytest.raises(OstroError, match="flat") as error:
        client.models()
    assert (error.value.status, error.value.code, error.value.param) == (status, "c", "p")
    if isinstance(error.value, APIError):
        assert error.value.request_id == "r1"
    assert len(_Scripted.times) == 1


@pytest.mark.parametrize("body", ["<html>gateway</html>", "[1]"])
def test_what_is_not_ours_is_an_api_error(scripted: str, body: str) -> None:
    _Scripted.script[:] = [(200, {}, body), (502, {}, body)]
    with Client(endpoint=scripted) as client:
        for _ in range(2):
            with pytest.raises(APIError):
                client.models()


def test_a_stream_cut_short_is_a_connection_error_and_not_repeated(scripted: str) -> None:
    chunk = 'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    _Scripted.script[:] = [(200, {"content-length": "10000"}, chunk)]
    with Client(endpoint=scripted) as client, client.chat(MESSAGES, stream=True) as stream:
        deltas = iter(stream)
        assert next(deltas).text == "a"
        with pytest.raises(APIConnectionError):
            next(deltas)
    assert len(_Scripted.times) == 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_nobody_there() -> None:
    url = f"http://127.0.0.1:{_free_port()}"
    with Client(endpoint=url, max_retries=0) as client, pytest.raises(APIConnectionError, match=url):
        client.models()


def test_a_server_that_comes_up_late_is_waited_for() -> None:
    port = _free_port()
    _Scripted.script[:] = [_MODELS]

    def open_late() -> None:
        time.sleep(0.7)
        with ThreadingHTTPServer(("127.0.0.1", port), _Scripted) as server:
            server.handle_request()

    thread = threading.Thread(target=open_late)
    thread.start()
    with Client(endpoint=f"http://127.0.0.1:{port}", max_retries=5) as client:
        assert client.models() == ["m"]
    thread.join()


def test_routes_fall_back_before_anything_was_produced(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"http://127.0.0.1:{_free_port()}"
    ask: dict[str, Any] = {"inputs": {"text": "hi"}, "max_tokens": 3, "seed": 0}
    monkeypatch.setenv("OSTRO_EDGE_URL", node.url)
    with Client(endpoint="cloud/edge") as client:
        result = client.infer(**ask)
        assert (result.text, result.route) == ("hi", "edge")
        assert "OSTRO_CLOUD_URL" in result.reason
        with pytest.raises(ConfigError, match="OSTRO_CLOUD_URL"):
            client.infer(mode="cloud", **ask)
        monkeypatch.setenv("OSTRO_CLOUD_URL", nowhere)
        assert client.infer(**ask).route == "edge"
        monkeypatch.setenv("OSTRO_CLOUD_URL", node.url)
        monkeypatch.setenv("OSTRO_EDGE_URL", nowhere)
        result = client.infer(**ask)
        assert (result.route, result.reason) == ("cloud", "the edge could not be reached")
        assert result.cost is None
        with pytest.raises(APIConnectionError):
            client.infer(mode="edge", **ask)


def test_the_published_snippet(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTRO_EDGE_URL", node.url)
    code = (
        "from mistral_sdk import Client\n"
        "client = Client(api_key='k', endpoint='cloud/edge')\n"
        "print(sorted(client.infer(inputs={'text': 'Where is my card?'}, mode='auto').text[:17]))\n"
        "import sys; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    # The fake engine says the prompt over and over, from a random place on.
    assert done.stdout.strip() == str(sorted("Where is my card?"))


@pytest.mark.parametrize("endpoint", ["", "nowhere", "ftp://x", "http://"])
def test_wrong_endpoints_are_told_at_once(endpoint: str) -> None:
    with pytest.raises(ConfigError):
        Client(endpoint=endpoint)


def test_wrong_settings() -> None:
    for settings in ({"timeout": 0}, {"max_retries": -1}):
        with pytest.raises(InvalidRequestError):
            Client(**settings)
    with Client() as client, pytest.raises(InvalidRequestError, match="mode"):
        client.infer(inputs={"text": "x"}, mode="moon")


def test_the_async_client_does_the_same(node: Node) -> None:
    async def scenario() -> None:
        async with AsyncClient(endpoint=node.url, max_retries=0) as client:
            results = await asyncio.gather(
                *(client.infer(inputs={"text": f"hi {i}"}, max_tokens=5, seed=0) for i in range(5))
            )
            assert [result.text for result in results] == [f"hi {i}" for i in range(5)]
            assert (await client.chat(MESSAGES, max_tokens=6, seed=0)).text == "hello"
            assert (await client.complete("hey", max_tokens=4, seed=0)).text == "hey"
            assert await client.models() == ["fake"]
            text = ""
            async for delta in await client.chat(MESSAGES, stream=True, max_tokens=6, seed=0):
                text += delta.text
            assert text == "hello"
            with pytest.raises(InvalidRequestError):
                await client.chat(MESSAGES, temperature=-1)
            async with await client.chat([{"role": "user", "content": f"{chr(SLOW)}and long"}], stream=True) as stream:
                async for _ in stream:
                    break
        async with AsyncClient(endpoint=f"http://127.0.0.1:{_free_port()}", max_retries=0) as lost:
            with pytest.raises(APIConnectionError):
                await lost.models()

    asyncio.run(scenario())
    until(lambda: node.metric("vllm:num_requests_running") == 0)


def test_the_async_client_retries(scripted: str) -> None:
    async def scenario() -> None:
        async with AsyncClient(endpoint=scripted) as client:
            assert await client.models() == ["m"]

    _Scripted.script[:] = [(429, {"retry-after": "0"}, "{}"), _MODELS]
    asyncio.run(scenario())


def test_importing_the_client_is_quick_and_torch_free() -> None:
    code = (
        "import time; t = time.process_time(); import ostro.client; t = time.process_time() - t\n"
        "import sys; assert 'torch' not in sys.modules and 'fastapi' not in sys.modules; assert t < 0.5, t"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
