"""Nodes that come, go, fail and fill up, behind a gateway that answers all the while."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from running import RunningGateway, asking, node, settings
from stub_node import StubNode

CHAT = "/v1/chat/completions"
HERE = Path(__file__).resolve().parent


@contextmanager
def node_process(port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A node in a process of its own, that can be killed."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "stub_node.py"), str(port)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = f"http://127.0.0.1:{int(process.stdout.readline())}"
    try:
        yield process, url
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def away(gateway: RunningGateway, key: str) -> list[str]:
    with gateway.client(key) as client:
        response = client.get("/health/ready")
        return [one.partition(" ")[0] for one in response.json().get("away", ["all"])]


def test_one_of_three_dies_under_load_and_nobody_notices(tmp_path: Path) -> None:
    ports = [free_port() for _ in range(3)]
    with ExitStack() as stack:
        processes = [stack.enter_context(node_process(port))[0] for port in ports]
        nodes = [node(f"http://127.0.0.1:{port}", f"n{index}") for index, port in enumerate(ports)]
        gateway = stack.enter_context(RunningGateway(tmp_path, settings(*nodes)))
        key = gateway.key()
        gateway.wait_for(key, nodes=3)

        async def load() -> tuple[Counter[int], list[str], float]:
            statuses: Counter[int] = Counter()
            bodies: list[str] = []
            stop = False

            async def client(session: aiohttp.ClientSession, number: int) -> None:
                while not stop:
                    # Different beginnings, so that all nodes are asked.
                    body = asking(f"say {number} {time.monotonic()}")
                    body["messages"].insert(0, {"role": "system", "content": f"{number} {time.monotonic()}"})
                    async with session.post(gateway.url + CHAT, json=body) as response:
                        statuses[response.status] += 1
                        if response.status != 200:
                            bodies.append(await response.text())

            headers = {"authorization": f"Bearer {key}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                clients = [asyncio.create_task(client(session, number)) for number in range(12)]
                await asyncio.sleep(1.0)
                processes[1].send_signal(signal.SIGKILL)
                died = time.monotonic()
                while await asyncio.to_thread(away, gateway, key) != ["n1"]:
                    assert time.monotonic() - died < 5
                out_after = time.monotonic() - died
                await asyncio.sleep(0.5)
                stop = True
                await asyncio.gather(*clients)
            return statuses, bodies, out_after

        statuses, bodies, out_after = asyncio.run(load())
        assert set(statuses) == {200}, bodies[:3]
        assert statuses[200] > 50
        assert out_after < 1.0
        with node_process(ports[1]):
            gateway.wait_for(key, nodes=3)


@pytest.mark.parametrize("how", ["html", "page", "denied", "busy", "away", "endless", "cut 0"])
@pytest.mark.parametrize("stream", [False, True])
def test_another_node_answers_where_one_fails(tmp_path: Path, how: str, stream: bool) -> None:
    """Each in its own way, and the client hears of none of it while nothing was streamed."""
    with StubNode() as failing, StubNode() as other:
        failing.does = how if stream or how != "cut 0" else "html"
        config = settings(node(failing.url, "failing"), node(other.url, "other"), max_answer=1_000_000)
        with RunningGateway(tmp_path, config) as gateway:
            key = gateway.key()
            gateway.wait_for(key, nodes=2)
            with gateway.client(key) as client:
                for number in range(8):
                    # Of the beginning depends which of the two is asked first.
                    body = asking("ok", stream=stream)
                    body["messages"].insert(0, {"role": "system", "content": f"{number}"})
                    answered = client.post(CHAT, json=body)
                    assert answered.status_code == 200, answered.text
                    assert answered.headers["x-ostro-node"] == "other"
                usage = client.get("/v1/usage").json()
            assert failing.requests
            assert usage["total_usd"] == "0.016", "what was tried and failed is not paid"


def test_a_breaker_leaves_a_failing_node_alone_and_tries_again(tmp_path: Path) -> None:
    with StubNode() as stub:
        config = settings(
            node(stub.url), routing={"probe_s": 30, "breaker_failures": 2, "breaker_s": 0.5, "retries": 0}
        )
        with RunningGateway(tmp_path, config) as gateway:
            key = gateway.key()
            gateway.wait_for(key)
            with gateway.client(key) as client:
                for _ in range(2):
                    assert client.post(CHAT, json=asking("html")).status_code == 503
                asked = len(stub.requests)
                refused = client.post(CHAT, json=asking("ok"))
                assert refused.status_code == 503
                assert "left alone" in refused.json()["error"]["message"]
                assert len(stub.requests) == asked
                time.sleep(0.6)
                assert client.post(CHAT, json=asking("ok")).status_code == 200
                assert client.post(CHAT, json=asking("ok")).status_code == 200


def test_a_node_takes_no_more_than_its_capacity(tmp_path: Path) -> None:
    with StubNode() as stub, RunningGateway(tmp_path, settings(node(stub.url, capacity=2))) as gateway:
        key = gateway.key()
        gateway.wait_for(key)

        async def ask(session: aiohttp.ClientSession) -> int:
            async with session.post(gateway.url + CHAT, json=asking("pause 0.5 1")) as response:
                await response.read()
                return response.status

        async def all_at_once() -> list[int]:
            async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
                return await asyncio.gather(*(ask(session) for _ in range(4)))

        assert sorted(asyncio.run(all_at_once())) == [200, 200, 503, 503]


def test_low_priority_leaves_busy_accelerators_to_others_and_comes_back(tmp_path: Path) -> None:
    busy = 'vllm:num_requests_running{model_name="m"} 50\nvllm:kv_cache_usage_perc{model_name="m"} 0.95\n'
    with StubNode(metrics=busy) as gpu, StubNode() as cpu:
        nodes = [node(gpu.url, "gpu", device="accelerator"), node(cpu.url, "cpu", device="cpu")]
        with RunningGateway(tmp_path, settings(*nodes, routing={"probe_s": 0.1, "affinity": 1.0})) as gateway:
            low, normal = gateway.key(priority=-1), gateway.key()
            gateway.wait_for(low, nodes=2)
            time.sleep(0.3)

            def asked(key: str) -> Counter[str]:
                found: Counter[str] = Counter()
                with gateway.client(key) as client:
                    for number in range(12):
                        body = asking("ok")
                        body["messages"].insert(0, {"role": "system", "content": f"beginning {number}"})
                        found[client.post(CHAT, json=body).headers["x-ostro-node"]] += 1
                return found

            assert asked(low) == {"cpu": 12}
            assert asked(normal)["gpu"] > 0
            gpu.metrics = busy.replace("0.95", "0.75").replace("50", "1")
            time.sleep(0.3)
            assert asked(low) == {"cpu": 12}, "not yet under the lower mark"
            gpu.metrics = busy.replace("0.95", "0.1").replace("50", "1")
            time.sleep(0.3)
            assert asked(low)["gpu"] > 0


def test_signals_are_read_from_long_metrics_too(tmp_path: Path) -> None:
    """A node with many models tells more than comes in one piece."""
    others = "".join(f'vllm:other{{model_name="m{number}"}} 1.0\n' for number in range(40_000))
    stub = StubNode(metrics=others + "vllm:kv_cache_usage_perc 0.87\n")
    with stub, RunningGateway(tmp_path, settings(node(stub.url))) as gateway:
        admin = gateway.key(admin=True)
        gateway.wait_for(admin)
        with gateway.client(admin) as client:
            for _ in range(100):
                (told,) = client.get("/admin/nodes").json()["data"]
                if told["kv_usage"]:
                    break
                time.sleep(0.05)
        assert (told["kv_usage"], told["load"]) == (0.87, 0.87)


def test_data_stays_in_its_region(tmp_path: Path) -> None:
    with StubNode() as here, StubNode() as there:
        nodes = [node(here.url, "here", region="eu"), node(there.url, "there", region="us")]
        with RunningGateway(tmp_path, settings(*nodes)) as gateway:
            key, nowhere = gateway.key(region="eu"), gateway.key(region="asia")
            gateway.wait_for(key, nodes=2)
            with gateway.client(key) as client:
                for number in range(6):
                    assert client.post(CHAT, json=asking(f"say {number}")).headers["x-ostro-node"] == "here"
                here.ready = False
                time.sleep(0.5)
                assert client.post(CHAT, json=asking("ok")).status_code == 503, "rather nowhere than elsewhere"
            with gateway.client(nowhere) as client:
                refused = client.post(CHAT, json=asking("ok"))
                assert refused.status_code == 400
                assert refused.json()["error"]["code"] == "no_node_in_region"
        assert not there.requests


def test_nodes_are_added_and_removed_while_it_runs(tmp_path: Path) -> None:
    with StubNode() as first, StubNode() as second, RunningGateway(tmp_path, settings(node(first.url))) as gateway:
        key, admin = gateway.key(), gateway.key(admin=True)
        gateway.wait_for(key)
        with gateway.client(admin) as client:
            added = client.post("/admin/nodes", json=node(second.url, "second", key="second-key"))
            assert added.status_code == 201
            for _ in range(100):
                listed = client.get("/admin/nodes").json()["data"]
                if all(one["answers"] for one in listed):
                    break
                time.sleep(0.05)
            assert [one["name"] for one in listed] == ["stub", "second"]
            assert "second-key" not in client.get("/admin/nodes").text
            assert client.delete("/admin/nodes/stub").json() == {"name": "stub", "removed": True, "idle": True}
            assert client.delete("/admin/nodes/stub").status_code == 404
            answered = client.post(CHAT, json=asking("ok"))
            assert answered.headers["x-ostro-node"] == "second"
            assert second.requests[-1]["headers"]["authorization"] == "Bearer second-key"
            for wrong in ({"name": "x"}, node("ftp://x", "x"), {**node(second.url, "x"), "colour": "red"}):
                assert client.post("/admin/nodes", json=wrong).status_code == 400


def test_a_node_that_is_removed_ends_what_it_began(tmp_path: Path) -> None:
    with StubNode() as stub, RunningGateway(tmp_path, settings(node(stub.url))) as gateway:
        admin = gateway.key(admin=True)
        gateway.wait_for(admin)

        async def work() -> tuple[str, dict[str, Any]]:
            async with aiohttp.ClientSession(headers={"authorization": f"Bearer {admin}"}) as session:
                body = asking("pause 0.1 10", stream=True)
                async with session.post(gateway.url + CHAT, json=body) as response:
                    await response.content.readline()
                    removing = asyncio.create_task(session.delete(f"{gateway.url}/admin/nodes/stub"))
                    text = (await response.read()).decode()
                async with await removing as removed:
                    return text, await removed.json()

        text, removed = asyncio.run(work())
        assert text.rstrip().endswith("data: [DONE]")
        assert removed["idle"]


def test_gateways_in_a_circle_are_found_out(tmp_path: Path) -> None:
    """Each has the other for its node; as Ostro's own they never say that they are ready."""
    ports = [free_port() for _ in range(2)]
    gateways = []
    for name, other in zip(("a", "b"), reversed(ports), strict=True):
        (tmp_path / name).mkdir()
        config = settings(node(f"http://127.0.0.1:{other}", "other", key_env="OTHER_KEY"))
        gateways.append(RunningGateway(tmp_path / name, config))
    keys = [gateway.key() for gateway in gateways]
    for gateway, others, port in zip(gateways, reversed(keys), ports, strict=True):
        gateway.environment["OTHER_KEY"] = others
        gateway.port = port
    with gateways[0], gateways[1]:
        for gateway, key in zip(gateways, keys, strict=True):
            with gateway.client(key) as client:
                assert client.post(CHAT, json=asking("ok")).status_code == 503
                back = client.post(CHAT, json=asking("ok"), headers={"x-ostro-via": "x,y,x"})
                assert back.status_code == 508
                assert "circle" in back.json()["error"]["message"]
                far = client.post(CHAT, json=asking("ok"), headers={"x-ostro-via": ",".join("abcdefghi")})
                assert far.status_code == 508


def test_a_gateway_that_is_its_own_node_ends_what_comes_back(tmp_path: Path) -> None:
    """As a plain OpenAI-compatible server it is probed by a call, which comes back and is refused."""
    port = free_port()
    config = settings(node(f"http://127.0.0.1:{port}", "itself", kind="openai", key_env="OWN_KEY"))
    gateway = RunningGateway(tmp_path, config)
    gateway.environment["OWN_KEY"] = key = gateway.key(watches=True)
    gateway.port = port
    with gateway, gateway.client(key) as client:
        time.sleep(0.5)
        assert client.post(CHAT, json=asking("ok")).status_code == 503
        assert 'ostro_gateway_refusals_total{code="gateway_cycle"}' in client.get("/metrics").text


@pytest.mark.parametrize("stream", [False, True])
def test_a_second_node_is_asked_where_the_first_takes_long(tmp_path: Path, stream: bool) -> None:
    """Whoever begins first answers; the other's work ends, and one call is paid."""
    with StubNode() as slow, StubNode() as quick:
        slow.does = "silent"
        config = settings(node(slow.url, "slow"), node(quick.url, "quick"), routing={"probe_s": 0.2, "hedge_s": 0.15})
        with RunningGateway(tmp_path, config) as gateway:
            key = gateway.key()
            gateway.wait_for(key, nodes=2)
            with gateway.client(key) as client:
                for number in range(6):
                    body = asking("ok", stream=stream)
                    body["messages"].insert(0, {"role": "system", "content": f"{number}"})
                    started = time.monotonic()
                    answered = client.post(CHAT, json=body)
                    assert (answered.status_code, answered.headers["x-ostro-node"]) == (200, "quick")
                    assert time.monotonic() - started < 5
                assert client.get("/v1/usage").json()["total_usd"] == "0.012"
            asked = len(slow.requests)
            assert asked
            for _ in range(100):
                if slow.left == asked:
                    break
                time.sleep(0.05)
            assert slow.left == asked, "it was told that nobody waits"


def test_a_hedge_that_fails_does_not_take_the_answer_away(tmp_path: Path) -> None:
    with StubNode() as slow, StubNode() as bad:
        slow.does, bad.does = "pause 0.5 1", "html"
        config = settings(node(slow.url, "slow"), node(bad.url, "bad"), routing={"probe_s": 0.2, "hedge_s": 0.1})
        with RunningGateway(tmp_path, config) as gateway:
            key = gateway.key()
            gateway.wait_for(key, nodes=2)
            with gateway.client(key) as client:
                for number in range(4):
                    body = asking("ok")
                    body["messages"].insert(0, {"role": "system", "content": f"{number}"})
                    answered = client.post(CHAT, json=body)
                    assert (answered.status_code, answered.headers["x-ostro-node"]) == (200, "slow")
