"""A client's own edge: the embedded model in processes that live as long as their client, asked as any node is."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from PIL import Image

from ostro import AsyncClient, Client
from ostro.client import edge
from ostro.core.errors import NotReadyError

ASK = {"inputs": {"text": "what does the customer want: I lost my card"}}


@pytest.fixture(scope="module", autouse=True)
def ends() -> Iterator[None]:
    yield
    edge.close_edges()


def children() -> list[psutil.Process]:
    """Nodes of this process."""
    found = psutil.Process().children()
    return [one for one in found if "--until-stdin-closes" in one.cmdline()]


def test_the_published_snippet_runs_as_it_is_written() -> None:
    from mistral_sdk import Client as Published

    picture = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 140, 200)).save(picture, "PNG")
    image = base64.b64encode(picture.getvalue()).decode()
    client = Published(api_key="YOUR_KEY", endpoint="cloud/edge")
    result = client.infer(inputs={"text": "描述这张图片", "image": image}, mode="auto")
    client.close()
    assert result.text.strip()
    assert result.labels[0].group == "photo"
    assert (result.route, result.cost) == ("edge", 0.0)
    assert "no cloud endpoint" in result.reason
    assert result.usage.completion_tokens > 0
    assert result.latency_ms > 0


def test_one_node_is_loaded_once_for_all_clients_and_wants_its_own_key() -> None:
    with Client(endpoint="edge") as first, Client(endpoint="edge", api_key="another") as second:
        answers = [first.infer(**ASK).labels[0].label, second.infer(**ASK).labels[0].label]
        assert answers[0] == answers[1]
        assert len(children()) == 1
        node = edge.edge_node("ostro-nano-edge")
        assert node.key not in " ".join(children()[0].cmdline())
        import httpx2

        assert httpx2.get(node.url + "/v1/models", trust_env=False).status_code == 401
        assert first.models() == ["ostro-nano-edge"]
        streamed = "".join(delta.text for delta in first.chat([{"role": "user", "content": "hello"}], stream=True))
        assert isinstance(streamed, str)


def test_the_asynchronous_client_uses_the_same_one() -> None:
    async def ask() -> Any:
        async with AsyncClient(endpoint="edge") as client:
            return await client.infer(**ASK)

    assert asyncio.run(ask()).route == "edge"
    assert len(children()) == 1


def test_a_node_that_died_is_started_again() -> None:
    with Client(endpoint="edge") as client:
        client.infer(**ASK)
        (before,) = children()
        before.kill()
        before.wait(10)
        assert client.infer(**ASK).route == "edge"
        (after,) = children()
        assert after.pid != before.pid


def test_a_model_that_is_not_there_is_a_clear_error() -> None:
    with pytest.raises(NotReadyError, match=r"'no-such-model' did not start: .*no-such-model"):
        Client(endpoint="edge", edge_model="no-such-model").infer(**ASK)


@pytest.mark.parametrize("how", ["returns", "is killed"])
def test_it_ends_with_its_client_however_that_ends(how: str) -> None:
    code = """
        import sys
        from ostro.client.edge import edge_node
        node = edge_node("ostro-nano-edge")
        print(node._process.pid, flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    node = psutil.Process(int(process.stdout.readline()))
    engines = node.children()
    assert engines, "an engine in a process of its own"
    if how == "is killed":
        os.kill(process.pid, signal.SIGKILL)
    process.stdin.close()
    process.wait(30)
    process.stdout.close()
    deadline = time.monotonic() + 20
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in [node, *engines]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
