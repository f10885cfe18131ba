"""A gateway in front of nodes that do as they are told: over real sockets, as clients see it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from postgres_server import PostgresServer
from running import RunningGateway, asking, events, node, settings, text_of
from stub_node import StubNode

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def stub() -> Iterator[StubNode]:
    with StubNode() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, stub: StubNode) -> Iterator[RunningGateway]:
    config = settings(
        node(
            stub.url,
            key_env="STUB_KEY",
            models=[
                {"name": "m", "max_output": 500},
                {"name": "alias", "upstream": "own-name", "modalities": ["image"], "tools": False},
            ],
        ),
        max_answer=1_000_000,
        first_byte_s=2.0,
        gap_s=1.0,
    )
    with RunningGateway(tmp_path_factory.mktemp("gateway"), config, {"STUB_KEY": "node-secret"}) as running:
        running.wait_for(running.key())
        yield running


def usage(gateway: RunningGateway, key: str) -> dict[str, Any]:
    with gateway.client(key) as client:
        body: dict[str, Any] = client.get("/v1/usage").json()
    return body


def test_an_answer_is_passed_on_and_charged(gateway: RunningGateway, stub: StubNode) -> None:
    key = gateway.key(tenant="passed on")
    with gateway.client(key) as client:
        response = client.post(CHAT, json=asking("say hello there", temperature=0), headers={"x-request-id": "mine-1"})
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "hello there"
    assert response.headers["x-ostro-node"] == "stub"
    assert response.headers["x-ostro-cost-usd"] == "0.002"
    assert response.headers["x-request-id"] == "mine-1"
    sent = stub.requests[-1]
    assert sent["headers"]["authorization"] == "Bearer node-secret", "the node's own key, never the caller's"
    assert sent["headers"]["x-ostro-tenant"] == "passed on"
    assert sent["headers"]["x-request-id"] == "mine-1"
    assert sent["temperature"] == 0
    (row,) = usage(gateway, key)["data"]
    assert (row["calls"], row["usd"], row["prompt_tokens"], row["completion_tokens"]) == (1, "0.002", 7, 1)


def test_a_stream_is_passed_on_event_by_event(gateway: RunningGateway) -> None:
    key = gateway.key(tenant="streams")
    with gateway.client(key) as client:
        plain = client.post(CHAT, json=asking("count 40", stream=True))
        counted = client.post(CHAT, json=asking("count 3", stream=True, stream_options={"include_usage": True}))
    assert plain.headers["content-type"].startswith("text/event-stream")
    assert text_of(plain) == "t " * 40
    assert events(plain)[-1] == "[DONE]"
    assert not any("usage" in json.loads(one) for one in events(plain)[:-1]), "nobody asked for it"
    assert json.loads(events(counted)[-2])["usage"]["completion_tokens"] == 3
    assert sum(row["completion_tokens"] for row in usage(gateway, key)["data"]) == 43


def test_a_model_is_called_as_the_caller_calls_it(gateway: RunningGateway, stub: StubNode) -> None:
    with gateway.client(gateway.key()) as client:
        whole = client.post(CHAT, json={**asking("ok"), "model": "alias"})
        streamed = client.post(CHAT, json={**asking("count 2", stream=True), "model": "alias"})
    assert [one["model"] for one in stub.requests[-2:]] == ["own-name"] * 2
    assert whole.json()["model"] == "alias"
    assert {json.loads(one)["model"] for one in events(streamed)[:-1]} == {"alias"}


def test_infer_says_what_it_cost(gateway: RunningGateway) -> None:
    with gateway.client(gateway.key()) as client:
        response = client.post("/v1/infer", json={"inputs": {"text": "hello"}})
    assert response.json()["cost"] == 0.002


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("html", "answered with status 500"),
        ("page", "text/html instead of JSON"),
        ("denied", "answered with status 401"),
        ("busy", "has no room"),
        ("endless", "more than 1000000 bytes"),
        ("silent", "did not begin to answer in time"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_node_that_answers_wrongly_is_an_error_with_words_and_costs_nothing(
    gateway: RunningGateway, text: str, words: str, stream: bool
) -> None:
    if stream and text in ("page", "endless"):
        words = {"page": "something else than a stream", "endless": "an event that does not end|more than 1000000"}[
            text
        ]
    key = gateway.key(tenant=f"wrong {text} {stream}")
    with gateway.client(key) as client:
        time.sleep(1.1)  # the breaker of a test before has opened
        response = client.post(CHAT, json=asking(text, stream=stream))
        assert response.status_code in (502, 503)
        assert any(one in response.json()["error"]["message"] for one in words.split("|"))
        assert "<html>" not in response.text
        assert "node-secret" not in response.text
    assert {row["usd"] for row in usage(gateway, key)["data"]} == {"0.00"}


def test_what_the_node_says_of_a_request_is_told_as_it_says_it(gateway: RunningGateway) -> None:
    key = gateway.key(tenant="refused")
    with gateway.client(key) as client:
        response = client.post(CHAT, json=asking("bad"))
    assert response.status_code == 400
    assert response.json()["error"] == {"message": "stub: bad", "type": "x", "param": "messages", "code": "stub"}
    assert usage(gateway, key)["total_usd"] == "0.00"


@pytest.mark.parametrize(("text", "tokens"), [("cut 5", 5), ("error 4", 4)])
def test_a_stream_that_breaks_off_ends_with_an_error_and_is_charged_as_served(
    gateway: RunningGateway, text: str, tokens: int
) -> None:
    key = gateway.key(tenant=f"broken {text}", tier="tokens")
    with gateway.client(key) as client:
        response = client.post(CHAT, json=asking(text, stream=True))
    assert text_of(response) == "t " * tokens
    last = json.loads(events(response)[-1])
    assert last["error"]["message"]
    (row,) = usage(gateway, key)["data"]
    assert row["completion_tokens"] == tokens
    assert row["usd"] == f"{0.002 + 7e-6 + tokens * 0.001:.6f}"


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/messages", {"messages": [{"role": "user", "content": "cut 2"}], "max_tokens": 5}),
        ("/v1/responses", {"input": "cut 2"}),
    ],
)
def test_a_stream_that_breaks_off_says_so_as_its_api_does(
    gateway: RunningGateway, path: str, asked: dict[str, Any]
) -> None:
    with gateway.client(gateway.key()) as client:
        response = client.post(path, json={"model": "m", "stream": True, **asked})
    name, data = response.text.strip().split("\n\n")[-1].split("\n")
    assert name == "event: error"
    told = json.loads(data.removeprefix("data: "))
    assert told["type"] == "error"
    assert "ended before the answer did" in told["error"]["message"]


def test_a_caller_that_leaves_is_charged_as_served_and_the_node_stops(gateway: RunningGateway, stub: StubNode) -> None:
    key, left = gateway.key(tenant="leaves", tier="tokens"), stub.left
    with (
        gateway.client(key) as client,
        client.stream("POST", CHAT, json=asking("pause 0.05 100", stream=True)) as reply,
    ):
        lines = reply.iter_lines()
        for _ in range(9):
            next(lines)
    for _ in range(100):
        rows = usage(gateway, key)["data"]
        if rows and stub.left > left:
            break
        time.sleep(0.05)
    assert stub.left == left + 1
    (row,) = rows
    assert 4 <= row["completion_tokens"] < 40
    assert row["failed"] == 1
    assert float(row["usd"]) == pytest.approx(0.002 + 7e-6 + row["completion_tokens"] * 0.001)


def test_usage_that_cannot_be_is_not_believed(gateway: RunningGateway) -> None:
    key = gateway.key(tenant="lies", tier="tokens")
    with gateway.client(key) as client:
        assert client.post(CHAT, json=asking("lies", max_tokens=10)).status_code == 200
        assert client.post(CHAT, json=asking("nousage", max_tokens=10)).status_code == 200
    (row,) = usage(gateway, key)["data"]
    assert 0.004 < float(row["usd"]) < 0.03
    assert row["completion_tokens"] > 0, "no usage is not for nothing"


def test_a_node_that_goes_on_beyond_what_was_asked_is_cut_off(gateway: RunningGateway) -> None:
    """What was held is what is paid, so no more is served for it."""
    key = gateway.key(tenant="goes on", tier="tokens")
    with gateway.client(key) as client:
        response = client.post(CHAT, json=asking("count 400", stream=True, max_tokens=20))
    assert text_of(response) == "t " * 20
    assert "20 tokens" in json.loads(events(response)[-1])["error"]["message"]
    assert float(usage(gateway, key)["total_usd"]) == pytest.approx(0.002 + 7e-6 + 20 * 0.001, abs=2e-3)


def test_an_answer_without_a_limit_gets_one_where_it_is_paid_by_the_token(
    gateway: RunningGateway, stub: StubNode
) -> None:
    with gateway.client(gateway.key(tier="tokens")) as client:
        client.post(CHAT, json=asking("ok"))
    assert stub.requests[-1]["max_tokens"] == 500
    with gateway.client(gateway.key()) as client:
        client.post(CHAT, json=asking("ok"))
    assert "max_tokens" not in stub.requests[-1]


def test_nobody_overtakes_others_by_a_field_of_the_body(gateway: RunningGateway, stub: StubNode) -> None:
    with gateway.client(gateway.key(priority=5)) as client:
        client.post(CHAT, json=asking("ok", priority=-50))
    assert stub.requests[-1]["priority"] == -5
    with gateway.client(gateway.key()) as client:
        client.post(CHAT, json=asking("ok", priority=-50))
    assert stub.requests[-1]["priority"] == 0


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[1]", 400, None),
        (b'{"model": 5}', 400, "model"),
        (b'{"model": "m", "stream": 1, "messages": []}', 400, "stream"),
        (b'{"model": "m", "max_tokens": -1, "messages": []}', 400, "max_tokens"),
        (b'{"model": "m", "n": 1000, "messages": []}', 400, "n"),
        (b'{"model": "none", "messages": []}', 404, "model"),
        (b'{"model": "alias", "messages": [], "tools": [{}]}', 400, "tools"),
        (b'{"model": "alias", "messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}', 400, "messages"),
        (b"[" * 100_000, 400, None),
    ],
)
def test_a_bad_body_is_refused_before_anything_is_sent(
    gateway: RunningGateway, stub: StubNode, body: bytes, status: int, param: str | None
) -> None:
    sent = len(stub.requests)
    with gateway.client(gateway.key()) as client:
        response = client.post(CHAT, content=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
    assert len(stub.requests) == sent


def test_models_are_those_that_a_key_may_use(gateway: RunningGateway) -> None:
    with gateway.client(gateway.key(models=["alias"])) as client:
        listed = client.get("/v1/models").json()["data"]
        assert [one["id"] for one in listed] == ["alias"]
        assert listed[0]["ready"]
        assert client.get("/v1/models/alias").json() == listed[0]
        assert client.get("/v1/models/m").status_code == 404
        refused = client.post(CHAT, json=asking("ok"))
        assert refused.status_code == 403
        assert client.post(CHAT, json={"messages": [{"role": "user", "content": "ok"}]}).json()["model"] == "alias"


def test_a_tenant_sees_its_own_usage_alone(gateway: RunningGateway) -> None:
    one, other = gateway.key(tenant="one"), gateway.key(tenant="other")
    with gateway.client(one) as client:
        client.post(CHAT, json=asking("ok"))
    with gateway.client(other) as client:
        assert client.get("/v1/usage", params={"tenant": "one"}).json()["data"] == []
    assert [row["tenant"] for row in usage(gateway, one)["data"]] == ["one"]


def test_usage_is_exported_as_csv(gateway: RunningGateway) -> None:
    key = gateway.key(tenant="=1+1")
    with gateway.client(key) as client:
        client.post(CHAT, json=asking("ok"))
        response = client.get("/v1/usage", params={"format": "csv", "by": "model,node"})
        assert response.headers["content-type"].startswith("text/csv")
        head, row = response.text.splitlines()
        assert head.split(",")[:2] == ["day", "tenant"]
        assert "'=1+1" in row, "a spreadsheet must not run it"
        assert "stub" in row
        assert client.get("/v1/usage", params={"since": "yesterday"}).status_code == 400
        assert client.get("/v1/usage", params={"by": "secret"}).status_code == 400


def test_keys_do_not_appear_in_logs(gateway: RunningGateway) -> None:
    key = gateway.key()
    with gateway.client(key) as client:
        client.post(CHAT, json=asking("html"))
        client.get("/nowhere")
    log = gateway.log.read_text()
    assert key not in log
    assert "node-secret" not in log


def test_it_drains(tmp_path: Path, stub: StubNode) -> None:
    with RunningGateway(tmp_path, settings(node(stub.url))) as running:
        key = running.key()
        running.wait_for(key)
        with running.client(key) as client, client.stream("POST", CHAT, json=asking("pause 0.1 10", stream=True)) as on:
            lines = on.iter_lines()
            next(lines)
            assert running.process is not None
            running.process.terminate()
            with running.client(key) as other:
                for _ in range(100):
                    if other.get("/health/ready").status_code == 503:
                        break
                    time.sleep(0.005)
                refused = other.post(CHAT, json=asking("ok"))
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
            rest = [line for line in lines if line.startswith("data: ")]
        assert rest[-1] == "data: [DONE]"
        assert running.process.wait(10) == 0


def test_a_database_that_goes_away_is_a_clear_error_and_it_comes_back(
    tmp_path: Path, stub: StubNode, postgres: PostgresServer
) -> None:
    postgres.empty()
    config = settings(node(stub.url), store=postgres.url)
    with RunningGateway(tmp_path, config) as running:
        key = running.key()
        running.wait_for(key)
        with running.client(key) as client:
            assert client.post(CHAT, json=asking("ok")).status_code == 200
            postgres.stop()
            try:
                refused = client.post(CHAT, json=asking("ok"))
                assert refused.status_code == 503
                assert refused.json()["error"]["code"] == "store_unavailable"
                assert refused.headers["retry-after"]
                assert "127.0.0.1" not in refused.text, "where it is, is nobody's business"
            finally:
                postgres.start()
            for _ in range(100):
                if client.post(CHAT, json=asking("ok")).status_code == 200:
                    break
                time.sleep(0.1)
            assert client.post(CHAT, json=asking("ok")).status_code == 200
        assert running.process is not None
        assert running.process.poll() is None


def test_several_gateways_share_limits_exactly(tmp_path: Path, stub: StubNode, postgres: PostgresServer) -> None:
    postgres.empty()
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    first, second = (
        RunningGateway(folder, settings(node(stub.url), store=postgres.url, name=folder.name)) for folder in folders
    )
    with first, second:
        key = first.key(requests_per_minute=9, budget=100_000)
        for one in (first, second):
            one.wait_for(key)
        with first.client(key) as a, second.client(key) as b, ThreadPoolExecutor(8) as pool:
            asked = [pool.submit((a, b)[index % 2].post, CHAT, json=asking("ok")) for index in range(24)]
            answers = [one.result() for one in asked]
        assert sorted(one.status_code for one in answers) == [200] * 9 + [429] * 15
        refused = next(one for one in answers if one.status_code == 429)
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(refused.headers["retry-after"]) <= 61
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"


def test_a_budget_is_not_overspent(gateway: RunningGateway) -> None:
    key = gateway.key(budget=5 * 2000 + 100)
    with gateway.client(key) as client, ThreadPoolExecutor(8) as pool:
        answers = [one.result() for one in [pool.submit(client.post, CHAT, json=asking("ok")) for _ in range(20)]]
    assert sorted(one.status_code for one in answers) == [200] * 5 + [402] * 15
    refused = next(one for one in answers if one.status_code == 402)
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert "Raise the budget" in refused.json()["error"]["message"]


def test_a_revoked_key_is_refused_at_once_by_whoever_revokes_it(gateway: RunningGateway) -> None:
    admin, (key, key_id) = gateway.key(admin=True), gateway.made_key()
    with gateway.client(key) as client, gateway.client(admin) as administrator:
        assert client.post(CHAT, json=asking("ok")).status_code == 200
        assert administrator.delete(f"/admin/keys/{key_id}").status_code == 200
        refused = client.post(CHAT, json=asking("ok"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


OPEN = {"/health/live", "/"}


def test_everything_but_what_is_open_wants_a_key(gateway: RunningGateway) -> None:
    """Also what is not there, and what only looks like an open path."""
    from ostro.gateway.app import Gateway
    from ostro.gateway.asking import ENDPOINTS
    from ostro.gateway.config import read_config

    made = Gateway(read_config(gateway.config, {"STUB_KEY": "x"}))
    paths = [route.path for route in made._others.routes] + list(ENDPOINTS)  # type: ignore[attr-defined]  # all are Routes
    made.context.database.close()
    assert len(paths) > 15
    odd = [
        "/",
        "/nowhere",
        "//health/live",
        "/health/live/",
        "/health/live/../../admin/keys",
        "/HEALTH/live",
        "/metrics",
    ]
    with gateway.client(None) as client:
        for path in {*paths, *odd} - OPEN:
            for method in ("GET", "POST", "DELETE", "PATCH", "OPTIONS", "HEAD"):
                for headers in ({}, {"authorization": "Bearer no"}, {"host": "127.0.0.1/health/live?"}):
                    asked = path.replace("{id}", "x").replace("{name:path}", "x")
                    response = client.request(method, asked, headers=headers)
                    refused = 403 if "host" in headers else 401  # a Host that is none is refused before all else
                    assert response.status_code == refused, (method, path, headers)
        assert client.get("/health/live").status_code == 200


def test_only_a_key_that_administers_may(gateway: RunningGateway) -> None:
    with gateway.client(gateway.key()) as client:
        for method, path in (("GET", "/admin/keys"), ("POST", "/admin/nodes"), ("GET", "/metrics")):
            response = client.request(method, path)
            assert (response.status_code, response.json()["error"]["code"]) == (403, "not_allowed")


def test_keys_are_made_changed_and_listed(gateway: RunningGateway) -> None:
    with gateway.client(gateway.key(admin=True)) as client:
        made = client.post("/admin/keys", json={"name": "new", "tier": "commercial", "budget_usd": "0.004"})
        assert made.status_code == 201
        secret, key_id = made.json()["key"], made.json()["id"]
        listed = client.get("/admin/keys")
        assert secret not in listed.text
        assert "digest" not in listed.text
        record = next(one for one in listed.json()["data"] if one["id"] == key_id)
        assert (record["budget_usd"], record["spent_usd"], record["tenant"]) == ("0.004", "0.00", "new")
        with gateway.client(secret) as own:
            codes = [own.post(CHAT, json=asking("ok")).status_code for _ in range(3)]
            assert codes == [200, 200, 402]
            changed = client.patch(f"/admin/keys/{key_id}", json={"budget_usd": None, "requests_per_minute": 3})
            assert changed.json()["budget_usd"] is None
            assert [own.post(CHAT, json=asking("ok")).status_code for _ in range(2)] == [200, 429]
        for wrong in ({}, {"name": "x"}, {"name": "x", "tier": "none"}, {"name": "x", "tier": "research", "colour": 1}):
            assert client.post("/admin/keys", json=wrong).status_code == 400
        assert client.patch(f"/admin/keys/{key_id}", json={"tenant": "other"}).status_code == 400
        assert client.patch("/admin/keys/none", json={}).status_code == 404
        total = client.get("/admin/usage", params={"tenant": "new"}).json()["total_usd"]
        assert total == "0.006"


def test_metrics_tell_what_happens(gateway: RunningGateway) -> None:
    with gateway.client(gateway.key(budget=2000, watches=True)) as client:
        before = metrics_of(client.get("/metrics").text)
        client.post(CHAT, json=asking("count 5", stream=True))
        client.post(CHAT, json=asking("ok"))
        text = client.get("/metrics").text
    after = metrics_of(text)

    def grew(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    assert grew('ostro_gateway_calls_total{endpoint="/v1/chat/completions",model="m",outcome="ok"}') == 1
    assert grew('ostro_gateway_refusals_total{code="insufficient_quota"}') == 1
    assert grew('ostro_gateway_tokens_total{kind="completion",model="m"}') == 5
    assert grew('ostro_gateway_charged_usd_total{tier="commercial"}') == pytest.approx(0.002)
    assert grew('ostro_gateway_routed_total{model="m",node="stub"}') == 1
    for histogram in ("call", "first_byte"):
        assert grew(f'ostro_gateway_{histogram}_seconds_count{{model="m"}}') == 1
    assert grew("ostro_gateway_own_seconds_count") == 1
    assert after['ostro_gateway_node_up{node="stub"}'] == 1
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert len({name for name in families if name.startswith("ostro_gateway")}) >= 12


def metrics_of(text: str) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_callers_that_leave_at_once_hold_nothing(gateway: RunningGateway) -> None:
    """Wherever they leave: while their money is held, while a node is asked, while it answers."""
    import socket

    key, key_id = gateway.made_key(tier="tokens", concurrency=1000)
    host, port = gateway.url.removeprefix("http://").split(":")
    body = json.dumps(asking("pause 0.3 1")).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    for number in range(60):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body)
            time.sleep(0.0005 * (number % 12))
    with gateway.client(gateway.key(admin=True)) as client:
        for _ in range(100):
            (record,) = (one for one in client.get("/admin/keys").json()["data"] if one["id"] == key_id)
            if record["running"] == 0:
                break
            time.sleep(0.05)
    assert (record["running"], record["reserved_usd"]) == (0, "0.00")
