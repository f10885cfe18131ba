"""Batch jobs against real servers: what comes out, what is refused, what a crash, a rival or a crowd does to them."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batching import chat_line, create, ended, jsonl, lines_of, look, said, start, token_line, upload
from fake_engine import CRASH, SLOW, STUCK
from nodes import Node, running_node, until

SLOWLY = chr(SLOW)
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
QUICK = token_line("quick", *b"abcd")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_node() as running:
        yield running


def refused(node: Node, **fields: Any) -> dict[str, Any]:
    response = node.http.post("/v1/batch/jobs", json={"endpoint": "/v1/chat/completions", **fields})
    assert response.status_code in (400, 404), response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_a_file_of_requests_becomes_a_file_of_answers_in_the_same_order(node: Node) -> None:
    lines = [chat_line(f"line-{number}", f"{number:04}") for number in range(40)]
    job = ended(node, start(node, lines, metadata={"team": "a"}))
    assert (job["status"], job["total_requests"], job["succeeded_requests"]) == ("SUCCESS", 40, 40)
    assert job["error_file"] is None
    assert job["metadata"] == {"team": "a"}
    answers = lines_of(node, job["output_file"])
    assert [line["custom_id"] for line in answers] == [line["custom_id"] for line in lines]
    assert [said(line) for line in answers] == [f"{number:04}" for number in range(40)]
    assert {line["response"]["status_code"] for line in answers} == {200}
    assert len({line["id"] for line in answers}) == 40
    written = node.http.get(f"/v1/files/{job['output_file']}").json()
    assert (written["sample_type"], written["source"], written["num_lines"]) == ("batch_result", "mistral", 40)


def test_bad_requests_become_error_lines_and_the_others_are_answered(node: Node) -> None:
    lines = [
        chat_line("good", "abcd"),
        chat_line("hot", "abcd", temperature=-1),
        chat_line("foreign", "abcd", model="other"),
        chat_line("long", "x" * 2000),
        chat_line("streamed", "abcd", stream=True),
        chat_line("also good", "efgh"),
    ]
    job = ended(node, start(node, lines))
    assert (job["status"], job["succeeded_requests"], job["failed_requests"]) == ("SUCCESS", 2, 4)
    assert [line["custom_id"] for line in lines_of(node, job["output_file"])] == ["good", "also good"]
    errors = {line["custom_id"]: line for line in lines_of(node, job["error_file"])}
    assert {name: (line["response"] or {}).get("status_code") for name, line in errors.items()} == {
        "hot": 400,
        "foreign": 404,
        "long": 400,
        "streamed": None,
    }
    assert errors["hot"]["response"]["body"]["error"]["param"] == "temperature"
    assert errors["streamed"]["error"]["code"] == "stream_not_possible"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{nonsense", "invalid_json_line"),
        (b'{"custom_id": "a", "body": {"a": \xff}}', "invalid_json_line"),
        (b'{"custom_id": "a", "body": {"a": ' + b"[" * 100_000, "invalid_json_line"),
        (b'{"custom_id": "a"}', "invalid_request"),
        (b'{"custom_id": "a", "body": [1]}', "invalid_request"),
        (b'{"custom_id": 3, "body": {}}', "invalid_request"),
        (b'"text"', "invalid_request"),
        (b'{"custom_id": "first", "body": {}}', "duplicate_custom_id"),
        (b'{"custom_id": "", "body": {}}', "invalid_custom_id"),
        (b'{"custom_id": "b", "body": {}, "url": "/v1/embeddings"}', "invalid_url"),
        (b'{"custom_id": "b", "body": {}, "method": "GET"}', "invalid_method"),
        (b'{"custom_id": "b", "body": {"prompt": "caf\xe9"}}', "invalid_json_line"),
        (b'{"custom_id": "b", "body": {"seed": ' + b"9" * 5000 + b"}}", "invalid_request"),
        (b'{"custom_id": "b", "body": ' + b'{"a": ' * 5000 + b"1" + b"}" * 5001, "invalid_json_line"),
    ],
)
def test_a_bad_file_is_refused_with_the_line(node: Node, line: bytes, code: str) -> None:
    made = upload(node, jsonl([chat_line("first", "abcd"), b"", line]), name="mine.jsonl")
    error = refused(node, input_files=[made["id"]])
    assert "mine.jsonl, line 3:" in error["message"]
    assert (error["code"], error["param"]) == (code, "input_files")


def test_what_makes_no_job_is_refused_with_the_field(node: Node) -> None:
    good = upload(node, jsonl([chat_line("a", "abcd")]))["id"]
    empty = upload(node, b"\n \n")["id"]
    assert refused(node, input_files=[good], endpoint="/v1/models")["param"] == "endpoint"
    assert refused(node, input_files=["file-none"])["code"] == "file_not_found"
    assert refused(node, input_files=[empty])["code"] == "empty_file"
    assert refused(node)["param"] == "input_files"
    assert refused(node, input_files=[good], requests=[{"body": {}}])["param"] == "input_files"
    assert refused(node, input_files=[good], model="other")["code"] == "model_not_found"
    assert refused(node, input_files=[good], timeout_hours=0)["param"] == "timeout_hours"
    assert refused(node, input_files=[good], agent_id="a")["param"] == "agent_id"
    assert node.http.get("/v1/batch/jobs/batch-none").status_code == 404
    assert node.http.post("/v1/batch/jobs/batch-none/cancel").status_code == 404


def test_requests_come_along_and_answers_go_back_with_the_job(node: Node) -> None:
    requests = [{"body": chat_line("", "abcd")["body"]}, chat_line("named", "efgh")]
    job = ended(node, create(node, requests=requests, model="fake"))
    assert job["status"] == "SUCCESS"
    inline = node.http.get(f"/v1/batch/jobs/{job['id']}", params={"inline": True}).json()
    assert [(line["custom_id"], said(line)) for line in inline["outputs"]] == [(None, "abcd"), ("named", "efgh")]

    assert node.http.delete(f"/v1/files/{job['output_file']}").status_code == 200
    without = node.http.get(f"/v1/batch/jobs/{job['id']}", params={"inline": True})
    assert (without.status_code, without.json()["outputs"]) == (200, None)


@pytest.mark.parametrize("window", ["169h", "999h", "0h", "24", "1d", "05h"])
def test_a_window_that_is_none_is_refused(node: Node, window: str) -> None:
    body = {"endpoint": "/v1/completions", "input_file_id": "file-x", "completion_window": window}
    answer = node.http.post("/v1/batches", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "completion_window")


@pytest.mark.parametrize("window", ["1h", "24h", "99h", "100h", "159h", "168h"])
def test_a_window_may_be_a_week(node: Node, window: str) -> None:
    body = {"endpoint": "/v1/completions", "input_file_id": "file-x", "completion_window": window}
    assert node.http.post("/v1/batches", json=body).json()["error"]["param"] == "input_file_id"


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(node: Node, number: str) -> None:
    """In the store they would spoil other people's questions; in a request they would become null."""
    for field in (
        f'"metadata": {{"a": [{number}]}}, "requests": [{{"body": {{}}}}]',
        f'"requests": [{{"body": {{"temperature": {number}}}}}]',
    ):
        body = f'{{"endpoint": "/v1/completions", {field}}}'
        answer = node.http.post("/v1/batch/jobs", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert "finite" in answer.json()["error"]["message"]
    assert node.http.get("/v1/batch/jobs", params={"a": "5"}).json()["total"] == 0


def test_tokens_of_responses_are_counted(node: Node) -> None:
    requests = [{"body": {"input": "abcd", "max_output_tokens": 5}}] * 2
    job = ended(node, create(node, endpoint="/v1/responses", requests=requests, model="fake"))
    assert job["status"] == "SUCCESS"
    one = node.http.get(f"/v1/batch/jobs/{job['id']}", params={"inline": True}).json()["outputs"][0]
    used = one["response"]["body"]["usage"]
    told = node.http.get(f"/v1/batches/{job['id']}").json()["usage"]
    assert used["input_tokens"] > 0
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert told[name] == 2 * used[name]


def test_jobs_and_files_belong_to_the_key_that_made_them() -> None:
    with running_node(api_keys=["mine", "yours"]) as node:
        mine, yours = ({"authorization": f"Bearer {key}"} for key in ("mine", "yours"))

        def ask(key: dict[str, str], method: str, path: str, **more: Any) -> Any:
            return node.http.request(method, path, headers=key, **more)

        files = {"file": ("a.jsonl", jsonl([chat_line("a", "abcd") | {"method": "POST", "url": CHAT}]))}
        made = ask(mine, "POST", "/v1/files", files=files, data={"purpose": "batch"}).json()
        body = {"endpoint": CHAT, "input_file_id": made["id"], "completion_window": "24h"}
        assert ask(yours, "POST", "/v1/batches", json=body).status_code == 404
        assert (
            ask(yours, "POST", "/v1/batch/jobs", json={"endpoint": CHAT, "input_files": [made["id"]]}).status_code
            == 404
        )
        job = ask(mine, "POST", "/v1/batches", json=body).json()
        until(lambda: ask(mine, "GET", f"/v1/batches/{job['id']}").json()["status"] == "completed")
        output = ask(mine, "GET", f"/v1/batches/{job['id']}").json()["output_file_id"]
        for path in ("/v1/files", "/v1/batches", "/v1/batch/jobs", "/v1/batch/jobs?created_by_me=true"):
            assert ask(yours, "GET", path).json()["data"] == []
            assert ask(mine, "GET", path).json()["data"]
        assert ask(yours, "GET", f"/v1/files?after={made['id']}").json()["data"] == []
        assert ask(yours, "GET", f"/v1/batches?after={job['id']}").json()["data"] == []
        for file in (made["id"], output):
            for method, path in (("GET", ""), ("GET", "/content"), ("GET", "/url"), ("DELETE", "")):
                assert ask(yours, method, f"/v1/files/{file}{path}").status_code == 404
            assert ask(mine, "GET", f"/v1/files/{file}/content").status_code == 200
        for path in (f"/v1/batches/{job['id']}", f"/v1/batch/jobs/{job['id']}"):
            assert ask(yours, "GET", path).status_code == 404
            assert ask(yours, "POST", f"{path}/cancel").status_code == 404
        assert ask(yours, "DELETE", f"/v1/batch/jobs/{job['id']}").status_code == 404
        assert ask(mine, "DELETE", f"/v1/batch/jobs/{job['id']}").status_code == 200


def test_a_job_keeps_its_input_when_the_file_is_deleted(node: Node) -> None:
    made = upload(node, jsonl(chat_line(str(number), f"{SLOWLY}abc") for number in range(20)))
    job = create(node, input_files=[made["id"]])
    assert node.http.delete(f"/v1/files/{made['id']}").json()["deleted"]
    assert ended(node, job)["succeeded_requests"] == 20


def test_other_endpoints_and_several_files(node: Node) -> None:
    body = {"prompt": [97, 98], "max_tokens": 2, "seed": 0, "return_token_ids": True}
    files = [upload(node, jsonl([{"custom_id": name, "body": body}]))["id"] for name in "ab"]
    job = ended(node, create(node, endpoint=COMPLETIONS, input_files=files))
    assert [line["custom_id"] for line in lines_of(node, job["output_file"])] == ["a", "b"]
    again = files[:1] * 2
    assert refused(node, endpoint=COMPLETIONS, input_files=again)["code"] == "duplicate_custom_id"


def test_jobs_are_listed_by_what_they_are(node: Node) -> None:
    before = time.time()
    time.sleep(0.01)
    marks = [{"kind": "x", "n": str(number)} for number in range(3)]
    jobs = [create(node, requests=[chat_line("a", "abcd")], metadata=mark) for mark in marks]
    jobs.append(create(node, requests=[chat_line("a", "abcd")], model="fake"))
    for job in jobs:
        ended(node, job)

    def listed(**query: Any) -> list[str]:
        data = node.http.get("/v1/batch/jobs", params=query).raise_for_status().json()["data"]
        return [job["id"] for job in data]

    ids = [job["id"] for job in jobs]
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(before)) + f".{int(before % 1 * 1e6):06}Z"
    assert listed(created_after=since) == ids[::-1]
    assert listed(created_after=since, order_by="created", page_size=2, page=1) == ids[2:]
    assert listed(kind="x") == ids[2::-1]
    assert listed(kind="x", n="1") == [ids[1]]
    assert listed(model="fake", created_after=since) == [ids[3]]
    assert listed(status=["QUEUED", "RUNNING"]) == []
    assert set(ids) <= set(listed(status="SUCCESS"))
    assert node.http.get("/v1/batch/jobs", params={"page_size": 0}).json()["error"]["param"] == "page_size"
    assert node.http.delete(f"/v1/batch/jobs/{ids[0]}").json() == {"id": ids[0], "object": "batch", "deleted": True}
    assert listed(kind="x") == ids[2:0:-1]


def test_a_cancelled_job_ends_soon_and_keeps_what_was_done(node: Node) -> None:
    lines = [QUICK, *(token_line(str(number), STUCK) for number in range(20))]
    job = start(node, lines, endpoint=COMPLETIONS)
    until(lambda: look(node, job)["completed_requests"] == 1)
    assert node.http.post(f"/v1/batch/jobs/{job['id']}/cancel").json()["status"] == "CANCELLATION_REQUESTED"
    done = ended(node, job, seconds=10)
    assert (done["status"], done["succeeded_requests"], done["error_file"]) == ("CANCELLED", 1, None)
    assert [said(line) for line in lines_of(node, done["output_file"])] == ["abcd"]
    assert node.http.post(f"/v1/batch/jobs/{job['id']}/cancel").json()["status"] == "CANCELLED"
    until(lambda: node.metric("vllm:num_requests_running", model_name="fake") == 0)


def test_a_job_that_is_over_cannot_be_cancelled(node: Node) -> None:
    job = create(node, requests=[chat_line("a", "abcd")])
    ended(node, job)
    response = node.http.post(f"/v1/batch/jobs/{job['id']}/cancel")
    assert response.status_code == 400
    assert "it succeeded" in response.json()["error"]["message"]


def test_a_job_whose_time_is_over_says_what_was_not_done(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with running_node(store=str(store)) as node:
        job = start(node, [QUICK, token_line("stuck", STUCK)], endpoint=COMPLETIONS, timeout_hours=1)
        until(lambda: look(node, job)["completed_requests"] == 1)
        node.process.kill()
        node.process.wait()
    with sqlite3.connect(store) as connection:  # an hour passes
        connection.execute("UPDATE batch_jobs SET deadline = ?, lease_until = 0", (time.time() - 1,))
    connection.close()
    with running_node(store=str(store)) as node:
        done = ended(node, job)
        assert done["status"] == "TIMEOUT_EXCEEDED"
        assert [line["custom_id"] for line in lines_of(node, done["output_file"])] == ["quick"]
        (undone,) = lines_of(node, done["error_file"])
        assert (undone["custom_id"], undone["error"]["code"]) == ("stuck", "batch_expired")


def test_a_killed_server_goes_on_where_it_was_and_repeats_nothing(tmp_path: Path) -> None:
    store = str(tmp_path / "store.db")
    total = 60
    with running_node(store=store, batch_in_flight=4) as node:
        job = start(node, [chat_line(str(number), f"{SLOWLY}{number:03}") for number in range(total)])
        until(lambda: look(node, job)["completed_requests"] >= 10)
        os.kill(node.process.pid, signal.SIGKILL)
        node.process.wait()
    with sqlite3.connect(store) as connection:
        before = dict(connection.execute("SELECT number, line FROM batch_lines").fetchall())
    connection.close()
    assert 10 <= len(before) < total
    with running_node(store=store, batch_in_flight=4) as node:
        done = ended(node, job)
        assert (done["status"], done["succeeded_requests"], done["failed_requests"]) == ("SUCCESS", total, 0)
        text = node.http.get(f"/v1/files/{done['output_file']}/content").text.splitlines()
        answers = lines_of(node, done["output_file"])
        # The engine of the second server only saw what was left.
        assert node.metric("vllm:request_success_total", finished_reason="length") == total - len(before)
    assert {number: text[number] for number in before} == before
    assert [line["custom_id"] for line in answers] == [str(number) for number in range(total)]
    assert [said(line)[1:] for line in answers] == [f"{number:03}" for number in range(total)]
    assert not list((tmp_path / "store.db.files" / "jobs").iterdir())


def test_two_servers_on_one_store_share_jobs_and_do_nothing_twice(tmp_path: Path) -> None:
    store = str(tmp_path / "store.db")
    with running_node(store=store, batch_in_flight=2) as one, running_node(store=store, batch_in_flight=2) as other:
        jobs = [
            start(one, [chat_line(str(number), f"{name}{number:03}") for number in range(30)], metadata={"name": name})
            for name in "abcdefgh"
        ]
        for job in jobs:
            assert ended(other, job)["succeeded_requests"] == 30
            answers = lines_of(other, look(other, job)["output_file"])
            assert [said(line) for line in answers] == [f"{job['metadata']['name']}{number:03}" for number in range(30)]
        counts = [node.metric("vllm:request_success_total", finished_reason="length") for node in (one, other)]
        assert sum(counts) == 30 * len(jobs)


def test_a_server_takes_over_from_one_that_died(tmp_path: Path) -> None:
    store = str(tmp_path / "store.db")
    with running_node(store=store, batch_in_flight=2) as one:
        job = start(one, [chat_line(str(number), f"{SLOWLY}{number:03}") for number in range(30)])
        until(lambda: look(one, job)["completed_requests"] >= 4)
        with running_node(store=store, batch_in_flight=2) as other:
            time.sleep(1.5)
            assert other.metric("vllm:request_success_total", finished_reason="length") == 0
            os.kill(one.process.pid, signal.SIGKILL)
            assert ended(other, job)["succeeded_requests"] == 30


def test_a_server_that_is_told_to_stop_hands_its_job_on_at_once(tmp_path: Path) -> None:
    store = str(tmp_path / "store.db")
    with running_node(store=store, grace_s=0.2) as node:
        job = start(node, [QUICK, token_line("stuck", STUCK)], endpoint=COMPLETIONS)
        until(lambda: look(node, job)["completed_requests"] == 1)
        node.terminate()
        node.process.wait(20)
    with sqlite3.connect(store) as connection:
        rows = connection.execute("SELECT status, lease_owner FROM batch_jobs").fetchall()
    connection.close()
    assert rows == [("running", None)]


def test_requests_that_people_send_go_first(tmp_path: Path) -> None:
    options = {"max_num_seqs": 1, "max_waiting": 100}
    with running_node(options=options, batch_in_flight=20) as node:
        # Null is no priority of its own.
        job = start(node, [chat_line(str(number), f"{SLOWLY}{number:03}", priority=None) for number in range(60)])
        until(lambda: node.metric("vllm:num_requests_waiting", model_name="fake") >= 15)
        assert node.chat("now", max_tokens=1).status_code == 200
        # The fake engine serves by priority as the real one does: fifteen waited, at most what ran went first.
        assert look(node, job)["completed_requests"] <= 6


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    options = {"max_num_seqs": 1, "max_waiting": 1}
    with running_node(options=options, batch_in_flight=6) as node:
        job = ended(node, start(node, [chat_line(str(number), f"{number:04}") for number in range(12)]))
        assert (job["succeeded_requests"], job["failed_requests"]) == (12, 0)


def test_a_request_that_kills_its_engine_is_given_up_and_the_others_are_answered() -> None:
    with running_node(batch_in_flight=4) as node:
        lines = [token_line(str(number), *f"{number:04}".encode()) for number in range(6)]
        lines.insert(2, token_line("killer", CRASH))
        job = ended(node, start(node, lines, endpoint=COMPLETIONS), seconds=120)
        assert job["succeeded_requests"] == 6
        errors = lines_of(node, job["error_file"])
        assert [(line["custom_id"], line["response"]["status_code"]) for line in errors] == [("killer", 503)]
        # The supervisor has not given up: the engine comes back from the death that ended the job.
        until(lambda: node.chat("abcd").status_code == 200)


def test_the_key_gate_cannot_be_passed_from_outside_as_a_batch_does() -> None:
    with running_node(api_keys=["k"]) as node:
        bearer = {"authorization": "Bearer k"}
        made = node.http.post(
            "/v1/files", files={"file": ("a.jsonl", jsonl([chat_line("a", "abcd")]))}, headers=bearer
        ).json()
        body = {"endpoint": "/v1/chat/completions", "input_files": [made["id"]]}
        job = node.http.post("/v1/batch/jobs", json=body, headers=bearer).json()

        def status() -> Any:
            return node.http.get(f"/v1/batch/jobs/{job['id']}", headers=bearer).json()["status"]

        until(lambda: status() == "SUCCESS")
        for path in ("/v1/files", "/v1/batch/jobs", "/v1/batches", f"/v1/files/{made['id']}/content"):
            assert node.http.get(path).status_code == 401
        forged = {"ostro.principal": "IN_PROCESS", "x-ostro-principal": "in_process", "host": "localhost"}
        assert node.http.post("/v1/chat/completions", json={"messages": []}, headers=forged).status_code == 401


def test_the_server_answers_at_once_while_a_large_file_is_checked() -> None:
    body = chat_line("", "x" * 200)["body"]
    data = jsonl({"custom_id": str(number), "body": body} for number in range(100_001))
    with running_node() as node:
        made = upload(node, data)
        waits: list[float] = []
        over = threading.Event()

        def ask() -> None:
            with Node(node.process, node.port).http as http:
                while not over.is_set():
                    begun = time.monotonic()
                    assert http.get("/health/live").status_code == 200
                    waits.append(time.monotonic() - begun)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            error = refused(node, input_files=[made["id"]])
        finally:
            over.set()
            asking.join()
        assert error["code"] == "too_many_requests"
        assert sorted(waits)[len(waits) // 2] < 0.5


def test_a_job_whose_input_is_lost_fails_and_keeps_what_was_done(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with running_node(store=str(store)) as node:
        job = start(node, [QUICK, token_line("stuck", STUCK)], endpoint=COMPLETIONS)
        until(lambda: look(node, job)["completed_requests"] == 1)
        node.process.kill()
        node.process.wait()
    (spooled,) = (tmp_path / "store.db.files" / "jobs" / job["id"]).iterdir()
    spooled.unlink()
    spooled.write_bytes(b"nonsense\n")
    with running_node(store=str(store)) as node:
        done = ended(node, job)
        assert (done["status"], done["succeeded_requests"]) == ("FAILED", 1)
        assert "log" in done["errors"][0]["message"]
        assert len(lines_of(node, done["output_file"])) == 1
        openai = node.http.get(f"/v1/batches/{job['id']}").json()
        assert (openai["status"], openai["errors"]["data"][0]["code"]) == ("failed", "batch_failed")
