"""Several models in one node: loaded on demand, evicted within a budget, unloaded when idle, switched without loss.

Every engine is a real process; the budget holds one or two of them.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import psutil
import pytest
from fake_engine import CRASH, SLOW, STUCK
from nodes import Node, running_node, until

MIB = 2**20
ONE = {"weights": 4, "kv": 400 * MIB, "overhead": 0}  # the fake engine's card tells 4 bytes of weights
FITS_ONE, FITS_TWO = 500 * MIB, 900 * MIB


def _models(*names: str, **changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {"model": "m", "footprint": ONE, **changes.get(name, {})} for name in names}


def _pids(node: Node) -> set[int]:
    """Engine processes that are running."""
    children = psutil.Process(node.process.pid).children()
    return {child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE}


def _complete(node: Node, model: str, prompt: Any = "x", **fields: Any) -> httpx2.Response:
    return node.complete(prompt, model=model, max_tokens=fields.pop("max_tokens", 3), **fields)


def _states(node: Node) -> dict[str, str]:
    return {model["id"]: model["state"] for model in node.http.get("/v1/models").json()["data"]}


def _loads(node: Node, model: str) -> float:
    return node.metric("ostro_model_loads_total", model=model)


@contextmanager
def _background(node: Node, *calls: tuple[str, Any, int]) -> Any:
    """Requests (model, prompt, max_tokens) that run meanwhile; gives their futures."""
    with ThreadPoolExecutor(max_workers=32) as threads:
        yield [threads.submit(_complete, node, model, prompt, max_tokens=n) for model, prompt, n in calls]


def test_the_first_is_loaded_at_the_start_and_the_others_when_they_are_asked_for() -> None:
    with running_node(models=_models("a", "b"), pool={"budget": FITS_TWO}) as node:
        assert _states(node) == {"a": "ready", "b": "unloaded"}
        (first,) = _pids(node)
        assert _complete(node, "b").json()["model"] == "b"
        assert _states(node) == {"a": "ready", "b": "ready"}
        assert first in _pids(node)
        assert len(_pids(node)) == 2
        assert node.complete("x", max_tokens=1).json()["model"] == "a"  # the default
        unknown = _complete(node, "c")
        assert unknown.status_code == 404
        assert "'a', 'b'" in unknown.json()["message"]
        assert [_loads(node, name) for name in "ab"] == [1, 1]
        assert node.metric("ostro_model_memory_bytes", model="b") == 400 * MIB + 4


def test_the_longest_unused_makes_room() -> None:
    with running_node(models=_models("a", "b", "c"), pool={"budget": FITS_TWO}) as node:
        _complete(node, "b")
        _complete(node, "a")
        before = _pids(node)
        assert _complete(node, "c").status_code == 200
        assert _states(node) == {"a": "ready", "b": "unloaded", "c": "ready"}
        assert len(_pids(node)) == 2
        assert len(_pids(node) & before) == 1
        assert node.metric("ostro_model_unloads_total", model="b", reason="evicted") == 1
        assert [node.metric("ostro_model_loaded", model=name) for name in "abc"] == [1, 0, 1]


def test_counters_go_on_over_an_unload() -> None:
    with running_node(models=_models("a", "b"), pool={"budget": FITS_ONE}) as node:
        _complete(node, "a", max_tokens=5)
        before = node.metric("vllm:generation_tokens_total", model_name="a")
        assert before >= 5
        _complete(node, "b")
        assert node.metric("vllm:generation_tokens_total", model_name="a") == before
        _complete(node, "a", max_tokens=5)
        until(lambda: node.metric("vllm:generation_tokens_total", model_name="a") >= before + 5)


def test_idle_models_are_unloaded_and_come_back_and_the_server_stays_ready() -> None:
    with running_node(models=_models("a"), pool={"idle_unload_s": 0.8}) as node:
        with node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=40) as payloads:
            assert len(list(payloads)) > 2  # two seconds long: a model in use is not idle
        (pid,) = _pids(node)
        deadline = time.monotonic() + 10
        while pid in _pids(node):
            assert time.monotonic() < deadline
            # Probes are no use of a model: they must not keep it.
            assert node.http.get("/health/ready").status_code == 200
            time.sleep(0.1)
        assert not psutil.pid_exists(pid)
        assert _states(node) == {"a": "unloaded"}
        assert node.metric("ostro_model_unloads_total", reason="idle") == 1
        assert node.http.get("/health/ready").status_code == 200
        assert _pids(node) == set()  # nor load it
        assert _complete(node, "a").status_code == 200
        assert len(_pids(node)) == 1


def test_first_requests_that_come_together_share_a_load() -> None:
    with running_node(models=_models("a", "b"), pool={"budget": FITS_TWO}) as node:
        with _background(node, *[("b", "x", 3)] * 16) as answers:
            assert {answer.result(60).status_code for answer in answers} == {200}
        assert _loads(node, "b") == 1


def test_a_switch_drops_nothing() -> None:
    """Streams on the one model end whole before the other is loaded in its place."""
    with running_node(models=_models("a", "b"), pool={"budget": FITS_ONE}) as node:
        (pid,) = _pids(node)
        with (
            node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=40, model="a") as payloads,
            _background(node, ("a", [SLOW, 65], 60), ("b", "x", 3)) as (running, waiting),
        ):
            next(payloads)
            time.sleep(0.5)
            assert not waiting.done()
            assert pid in _pids(node)
            *_, last, done = payloads
            assert last["choices"][0]["finish_reason"] == "length"
            assert done == "[DONE]"
            assert running.result(60).json()["usage"]["completion_tokens"] == 60
            assert waiting.result(60).json()["model"] == "b"
        assert not psutil.pid_exists(pid)


def test_steady_traffic_for_one_model_does_not_keep_another_out() -> None:
    with running_node(models=_models("a", "b"), pool={"budget": FITS_ONE}) as node:
        stop = threading.Event()
        statuses: list[int] = []

        def traffic() -> None:
            while not stop.is_set():
                statuses.append(_complete(node, "a", [SLOW, 65], max_tokens=6).status_code)

        # Four at a time, a third of a second each: there is never a moment without one.
        threads = [threading.Thread(target=traffic) for _ in range(4)]
        try:
            for thread in threads:
                thread.start()
                time.sleep(0.1)
            before = len(statuses)
            assert _complete(node, "b").status_code == 200
            until(lambda: len(statuses) > before + 12)  # and it goes on afterwards
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        assert set(statuses) == {200}
        assert _loads(node, "a") >= 2


def test_who_waits_is_served_in_order_of_arrival() -> None:
    with running_node(models=_models("a", "b", "c"), pool={"budget": FITS_ONE}) as node:
        finished: list[str] = []

        def ask(model: str) -> None:
            assert _complete(node, model).status_code == 200
            finished.append(model)

        with (
            node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=30, model="a") as payloads,
            ThreadPoolExecutor() as threads,
        ):
            next(payloads)
            futures: list[Future[None]] = []
            for model in ("c", "a", "b"):
                time.sleep(0.4)  # the first load's time has passed: "a" may be told to retire
                futures.append(threads.submit(ask, model))
            list(payloads)
            for future in futures:
                future.result(60)
        assert finished == ["c", "a", "b"]


def test_a_model_that_retires_is_not_spared_because_it_was_just_used() -> None:
    with running_node(models=_models("a", "b", "c"), pool={"budget": FITS_TWO}) as node:
        _complete(node, "b")
        with (
            node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=60, model="a") as long,
            node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=20, model="a") as short,
            node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=60, model="b") as other,
            _background(node, ("c", "x", 3)) as (waiting,),
        ):
            for stream in (long, short, other):
                next(stream)
            list(short)  # "a" was used last now, but it is on its way out
            with ThreadPoolExecutor() as threads:
                queued = threads.submit(_complete, node, "a")
                assert _complete(node, "b").status_code == 200
                assert not queued.done()
                list(long)
                assert waiting.result(60).status_code == 200
                list(other)
                assert queued.result(60).status_code == 200


def test_a_small_model_does_not_overtake_a_large_one() -> None:
    """It would fit at once, but the large one, which came first, would wait for it too."""
    large = {"footprint": {**ONE, "kv": 800 * MIB}}
    with running_node(models=_models("a", "large", "small", large=large), pool={"budget": FITS_TWO}) as node:
        with (
            node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=30, model="a") as payloads,
            ThreadPoolExecutor() as threads,
        ):
            next(payloads)
            first = threads.submit(_complete, node, "large")
            time.sleep(0.3)
            second = threads.submit(_complete, node, "small")
            time.sleep(0.5)
            assert not second.done()
            assert _loads(node, "small") == 0
            list(payloads)
            assert [answer.result(60).status_code for answer in (first, second)] == [200, 200]
        assert [_loads(node, name) for name in ("a", "large", "small")] == [1, 1, 1]


def test_a_model_that_does_not_load_is_503_with_the_reason_and_tried_again() -> None:
    models = _models("a", "b", b={"model": "missing"})
    with running_node(models=models, pool={"budget": FITS_TWO, "retry_s": 1.5}) as node:
        for _ in range(2):
            refused = _complete(node, "b")
            assert refused.status_code == 503
            assert refused.json()["code"] == "load_failed"
            assert "There is no such checkpoint" in refused.json()["message"]
            assert int(refused.headers["retry-after"]) in (1, 2)
        assert node.metric("ostro_model_load_failures_total", model="b") == 1  # the second was not tried
        assert _states(node)["b"] == "failed"
        assert node.http.get("/health/ready").status_code == 200
        assert _complete(node, "a").status_code == 200
        time.sleep(1.6)
        assert _complete(node, "b").status_code == 503
        assert node.metric("ostro_model_load_failures_total", model="b") == 2


def test_a_default_model_that_does_not_load_leaves_the_others() -> None:
    models = _models("a", "b", a={"model": "missing"})
    with running_node(wait=False, models=models, pool={}) as node:
        until(lambda: _is_failed(node))
        assert node.http.get("/health/ready").status_code == 503
        assert "no such checkpoint" in node.http.get("/health/ready").json()["message"]
        assert _complete(node, "b").status_code == 200
        assert node.process.poll() is None


def _is_failed(node: Node) -> bool:
    try:
        return _states(node)["a"] == "failed"
    except httpx2.TransportError:
        return False


def test_an_only_model_that_does_not_load_still_ends_the_server() -> None:
    with running_node(wait=False, models=_models("a", a={"model": "missing"}), pool={"idle_unload_s": 5.0}) as node:
        assert node.process.wait(60) == 1


def test_an_engine_that_dies_for_good_is_given_up_and_tried_again_later() -> None:
    with running_node(models=_models("a", "b"), pool={"budget": FITS_ONE, "retry_s": 1.0}) as node:
        for _ in range(3):  # as often as the supervisor of these tests tries
            until(lambda: _complete(node, "a", [CRASH]).json().get("code") == "engine_dead")
        until(lambda: _states(node)["a"] == "failed")
        assert _complete(node, "a").json()["code"] == "load_failed"
        assert _complete(node, "b").status_code == 200  # its memory is free
        time.sleep(1.1)
        assert _complete(node, "a").status_code == 200


def test_a_model_larger_than_the_budget_is_refused_at_the_start(capfd: pytest.CaptureFixture[str]) -> None:
    models = _models("a", "b", b={"footprint": {**ONE, "kv": 600 * MIB}})
    with pytest.raises(ValueError, match="invalid literal"), running_node(models=models, pool={"budget": FITS_ONE}):
        pass  # The server names no port: it has ended.
    error = capfd.readouterr().err
    assert "The model 'b' would take 600 MiB, more than the budget of 500 MiB" in error


def test_what_a_model_really_takes_replaces_the_estimate() -> None:
    """The fake engine takes more than these few bytes, so two of them do not fit any more once one is loaded."""
    small = {"footprint": {"weights": 4, "kv": 0, "overhead": 0}}
    with running_node(models=_models("a", "b", a=small, b=small), pool={"budget": 15 * MIB}) as node:
        taken = node.metric("ostro_model_memory_bytes", model="a")
        assert taken > 15 * MIB
        assert _complete(node, "b").status_code == 200
        assert _states(node) == {"a": "unloaded", "b": "ready"}
        assert _complete(node, "a").status_code == 200  # one may stay alone


def test_models_that_turn_out_too_large_together_are_cut_back() -> None:
    small = {"footprint": {"weights": 4, "kv": 0, "overhead": 0}}
    with running_node(models=_models("a", a=small), pool={}) as node:
        taken = node.metric("ostro_model_memory_bytes", model="a")
    models = _models("a", "b", a=small, b=small)
    with running_node(models=models, pool={"budget": int(taken * 1.5)}) as node:
        assert _complete(node, "b").status_code == 200  # by the estimate it fits beside the first
        until(lambda: _states(node) == {"a": "unloaded", "b": "ready"})


def test_two_busy_models_do_not_spend_their_time_on_switching() -> None:
    """A model that was loaded stays about as long as that took, though another waits."""
    slow = {"model": "takes 1.0"}
    with running_node(models=_models("a", "b", a=slow, b=slow), pool={"budget": FITS_ONE}) as node:
        stop = threading.Event()
        served: list[int] = []

        def traffic(model: str) -> None:
            while not stop.is_set():
                served.append(_complete(node, model).status_code)

        threads = [threading.Thread(target=traffic, args=(model,)) for model in ("a", "b") for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(6.0)
        stop.set()
        for thread in threads:
            thread.join(60)
        assert set(served) == {200}
        switches = _loads(node, "a") + _loads(node, "b")
        assert switches >= 3
        assert len(served) > 8 * switches  # switched at once, it would be the two that wait


def test_who_waits_too_long_is_503_and_no_longer_waited_for() -> None:
    pool = {"budget": FITS_ONE, "load_timeout_s": 1.0}
    with running_node(models=_models("a", "b"), pool=pool, heartbeat_s=0.3) as node:
        with node.streaming("/v1/completions", prompt=[STUCK], max_tokens=5, model="a"):
            started = time.monotonic()
            late = _complete(node, "b")
            assert late.status_code == 503
            assert late.headers["retry-after"]
            assert 0.9 < time.monotonic() - started < 8
            assert _complete(node, "a").status_code == 200  # it is not retiring any more
        assert _loads(node, "b") == 0


def test_who_leaves_while_waiting_is_not_waited_for() -> None:
    with running_node(models=_models("a", "b"), pool={"budget": FITS_ONE}, heartbeat_s=0.3) as node:
        with node.streaming("/v1/completions", prompt=[STUCK], max_tokens=5, model="a"):
            body = json.dumps({"model": "b", "prompt": "x"}).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            with socket.create_connection(("127.0.0.1", node.port)) as raw:
                raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
                time.sleep(0.3)
            started = time.monotonic()
            assert _complete(node, "a").status_code == 200
            assert time.monotonic() - started < 10
        assert _loads(node, "b") == 0


def test_clients_that_leave_give_their_model_back() -> None:
    with running_node(models=_models("a", "b"), pool={"budget": FITS_ONE}) as node:
        for stream in (True, False):
            body = json.dumps({"model": "a", "prompt": [STUCK], "max_tokens": 5, "stream": stream}).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            with socket.create_connection(("127.0.0.1", node.port)) as raw:
                raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
                until(lambda: node.metric("vllm:num_requests_running", model_name="a") == 1)
            assert _complete(node, "b").status_code == 200
            assert _complete(node, "a").status_code == 200


def test_models_are_loaded_and_unloaded_by_hand() -> None:
    with running_node(models=_models("a", "b"), pool={"budget": FITS_TWO}) as node:
        assert node.http.post("/v1/models/b/load").json()["state"] == "ready"
        assert len(_pids(node)) == 2
        with node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=40, model="b") as payloads:
            next(payloads)
            busy = node.http.post("/v1/models/b/unload")
            assert (busy.status_code, busy.json()["code"]) == (409, "model_in_use")
            list(payloads)
        until(lambda: node.http.post("/v1/models/b/unload").status_code == 200)
        assert _states(node) == {"a": "ready", "b": "unloaded"}
        assert len(_pids(node)) == 1
        assert node.http.post("/v1/models/c/load").status_code == 404
        foreign = node.http.post("/v1/models/b/load", headers={"sec-fetch-site": "cross-site"})
        assert (foreign.status_code, foreign.json()["code"]) == (403, "forbidden_site")


def test_a_node_without_a_pool_keeps_its_models(node: Node) -> None:
    assert _states(node) == {"fake": "ready"}
    assert node.http.post("/v1/models/fake/unload").status_code == 409
    assert node.metric("ostro_model_loaded", model="fake") == 1


def test_sigterm_drains_what_runs_and_ends_what_loads() -> None:
    models = _models("a", "b", b={"model": "slow"})
    with running_node(models=models, pool={"budget": FITS_TWO}, grace_s=30) as node:
        with (
            node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=40, model="a") as payloads,
            _background(node, ("b", "x", 3)) as (waiting,),
        ):
            next(payloads)
            until(lambda: _states(node)["b"] == "loading")
            engines = _pids(node)
            assert len(engines) == 2
            node.terminate()
            assert waiting.result(5).status_code == 503
            assert "shutting down" in waiting.result().json()["message"]
            until(lambda: node.http.get("/health/ready").status_code == 503)
            *_, last, done = payloads
            assert last["choices"][0]["finish_reason"] == "length"
            assert done == "[DONE]"
        assert node.process.wait(20) == 0
        assert not any(psutil.pid_exists(pid) for pid in engines)


def test_a_draining_server_is_not_ready_though_its_default_model_was_unloaded() -> None:
    with running_node(models=_models("a", "b"), pool={"budget": FITS_ONE}, grace_s=30) as node:
        with node.streaming("/v1/completions", prompt=[SLOW, 65], max_tokens=40, model="b") as payloads:
            next(payloads)
            assert node.http.get("/health/ready").status_code == 200
            node.terminate()
            until(lambda: node.http.get("/health/ready").status_code == 503, 1.5)
            assert list(payloads)[-1] == "[DONE]"
        assert node.process.wait(20) == 0


def test_killing_the_server_ends_all_engines() -> None:
    with running_node(models=_models("a", "b"), pool={"budget": FITS_TWO}) as node:
        _complete(node, "b")
        engines = [psutil.Process(pid) for pid in _pids(node)]
        assert len(engines) == 2
        node.process.kill()
        until(lambda: all(not e.is_running() or e.status() == psutil.STATUS_ZOMBIE for e in engines))
