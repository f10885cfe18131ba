"""`/v1/files` against real servers: what is kept, what is refused, and what stays off the memory and the event loop."""

from __future__ import annotations

import hashlib
import os
import socket
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from batching import upload
from nodes import Node, running_node, until

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    store = tmp_path_factory.mktemp("files") / "store.db"
    with running_node(store=str(store), max_upload_bytes=64 * MIB, body_s=2.0) as running:
        running.store = store  # type: ignore[attr-defined]  # kept beside it for the tests
        yield running


def folder(node: Node, name: str = "files") -> Path:
    store: Path = node.store  # type: ignore[attr-defined]  # kept beside it for the tests
    return store.with_name("store.db.files") / name


def post(node: Node, **request: Any) -> tuple[int, dict[str, Any]]:
    response = node.http.post("/v1/files", **request)
    return response.status_code, response.json()["error"]


def test_a_file_goes_in_comes_back_and_goes(node: Node) -> None:
    data = b'{"a": 1}\n\n \n{"a": 2}'
    made = upload(node, data, name="mine.jsonl")
    assert made["id"].startswith("file-")
    assert (made["object"], made["bytes"], made["filename"], made["purpose"]) == (
        "file",
        len(data),
        "mine.jsonl",
        "batch",
    )
    assert (made["num_lines"], made["sample_type"], made["source"]) == (2, "batch_request", "upload")
    assert made["signature"] == hashlib.sha256(data).hexdigest()
    assert abs(made["created_at"] - time.time()) < 30
    path = f"/v1/files/{made['id']}"
    assert node.http.get(path).json() == {**made, "deleted": False}
    content = node.http.get(f"{path}/content")
    assert content.content == data
    assert content.headers["content-type"] == "application/octet-stream"
    assert "attachment" in content.headers["content-disposition"]
    assert node.http.get(f"{path}/url").json()["error"]["code"] == "not_supported"
    assert node.http.delete(path).json() == {"id": made["id"], "object": "file", "deleted": True}
    for gone in (node.http.get(path), node.http.get(f"{path}/content"), node.http.delete(path)):
        assert gone.status_code == 404
        assert gone.json()["error"]["code"] == "file_not_found"
    assert not (folder(node) / made["id"]).exists()


def test_what_the_client_calls_a_file_names_nothing_on_the_disk(node: Node) -> None:
    outside = sorted(path.name for path in folder(node).parent.parent.iterdir())
    for name, shown in (("../../evil.jsonl", "evil.jsonl"), ("C:\\x\\y.jsonl", "y.jsonl"), ("/etc/", "upload")):
        made = upload(node, b"{}", name=name)
        assert made["filename"] == shown
        assert (folder(node) / made["id"]).read_bytes() == b"{}"
    assert sorted(path.name for path in folder(node).parent.parent.iterdir()) == outside
    for wrong in ("..%2F..%2Fstore.db", "%2Fetc%2Fpasswd", "file-%00", "..", "x" * 5000):
        assert node.http.get(f"/v1/files/{wrong}/content").status_code in (404, 405)


def test_only_the_owner_of_the_process_reads_the_store(node: Node) -> None:
    made = upload(node, b"{}")
    store: Path = node.store  # type: ignore[attr-defined]  # kept beside it for the tests
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder(node).stat().st_mode) == 0o700
    assert (folder(node) / made["id"]).is_file()


def test_files_are_listed_in_both_shapes(node: Node) -> None:
    ids = [upload(node, b"{}", name=f"list-{number}.jsonl")["id"] for number in range(5)]

    def listed(**query: Any) -> dict[str, Any]:
        found: dict[str, Any] = node.http.get("/v1/files", params=query).raise_for_status().json()
        return found

    page = listed(limit=2)
    assert [file["id"] for file in page["data"]] == ids[:2:-1]
    assert page["has_more"]
    after = listed(limit=2, after=page["last_id"])
    assert [file["id"] for file in after["data"]] == ids[2:0:-1]
    assert listed(order="asc", after=ids[2])["data"][0]["id"] == ids[3]
    assert [file["id"] for file in listed(page=1, page_size=3, search="LIST-")["data"]] == ids[1::-1]
    alone = listed(page_size=2)
    assert ([file["id"] for file in alone["data"]], alone["has_more"]) == (ids[:2:-1], True)
    assert listed(search="list-")["total"] == 5
    assert listed(search="li%t")["total"] == 0
    assert listed(purpose="fine-tune")["data"] == []
    assert listed(sample_type=["batch_result"])["data"] == []
    assert "total" not in listed(include_total=False)
    for wrong in ({"limit": 0}, {"order": "up"}, {"page": -1}):
        response = node.http.get("/v1/files", params=wrong)
        assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(wrong)))


def test_what_is_no_upload_is_refused(node: Node) -> None:
    file = {"file": ("a.jsonl", b"{}")}
    assert post(node, json={"file": "x"})[0] == 415
    assert post(node, files=file, data={"purpose": "fine-tune"})[1]["param"] == "purpose"
    assert post(node, files={"other": ("a", b"{}")})[1]["param"] == "file"
    assert post(node, files={"purpose": (None, b"batch")})[1]["code"] == "missing_required_parameter"
    assert post(node, files=file, data={"expiry": "0"})[1]["param"] == "expiry"
    assert post(node, files=file, data={"expires_after[seconds]": "60"})[1]["param"] == "expires_after[seconds]"
    assert post(node, files=file, data={"x": "y" * 5000})[1]["code"] == "invalid_form"
    form = {"content-type": "multipart/form-data; boundary=b"}
    head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n{}'
    assert post(node, content=head, headers=form)[1]["code"] == "invalid_form"
    assert post(node, content=b"nonsense", headers=form)[1]["code"] == "invalid_form"
    assert post(node, content=b"", headers={"content-type": "multipart/form-data"})[0] == 415
    assert not list(folder(node, "incoming").iterdir())


def test_a_page_of_another_site_uploads_nothing(node: Node) -> None:
    file = {"file": ("a.jsonl", b"{}")}
    status, error = post(node, files=file, headers={"origin": "https://evil.example"})
    assert (status, error["code"]) == (403, "forbidden_origin")
    assert post(node, files=file, headers={"origin": "null"})[0] == 403
    assert node.http.post("/v1/files", files=file, headers={"origin": node.url}).status_code == 200


def test_an_upload_over_the_limit_is_refused_and_leaves_nothing(node: Node) -> None:
    data = b"x" * (64 * MIB)
    status, error = post(node, files={"file": ("a.jsonl", data)})
    assert (status, error["code"]) == (413, "request_too_large")

    def pieces() -> Iterator[bytes]:  # without a declared length
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(66):
            yield b"y" * MIB

    form = {"content-type": "multipart/form-data; boundary=b"}
    status, error = post(node, content=pieces(), headers=form)
    assert (status, error["code"]) == (413, "request_too_large")
    until(lambda: not list(folder(node, "incoming").iterdir()))


def test_an_upload_is_never_whole_in_memory(node: Node) -> None:
    process = psutil.Process(node.process.pid)
    upload(node, b"warm")
    before = process.memory_info().rss
    made = upload(node, b"z" * (60 * MIB))
    assert made["bytes"] == 60 * MIB
    assert process.memory_info().rss - before < 25 * MIB
    with node.http.stream("GET", f"/v1/files/{made['id']}/content") as response:
        assert sum(len(piece) for piece in response.iter_bytes()) == 60 * MIB
    assert process.memory_info().rss - before < 25 * MIB


@pytest.mark.parametrize("end", ["leaves", "stalls"])
def test_half_an_upload_leaves_nothing(node: Node, end: str) -> None:
    head = (
        b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: 4000000\r\n\r\n"
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", node.port)) as connection:
        connection.sendall(head + b"x" * 1000)
        until(lambda: len(list(folder(node, "incoming").iterdir())) == 1)
        if end == "stalls":
            connection.settimeout(20)
            assert b" 408 " in connection.recv(1000)
    until(lambda: not list(folder(node, "incoming").iterdir()), 20)


def test_files_go_when_their_time_is_over(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with running_node(store=str(store)) as node:
        kept = upload(node, b"{}")
        gone = upload(node, b"{}", expiry="1")
        other = upload(node, b"{}", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "7200"})
        assert kept["expires_at"] is None
        assert abs(gone["expires_at"] - time.time() - 3600) < 30
        assert abs(other["expires_at"] - time.time() - 7200) < 30
        with sqlite3.connect(store) as connection:
            connection.execute("UPDATE files SET expires_at = ? WHERE id = ?", (time.time() - 1, gone["id"]))
        connection.close()
        assert node.http.get(f"/v1/files/{gone['id']}").status_code == 404
        assert node.http.get("/v1/files").json()["total"] == 2
    stray = tmp_path / "store.db.files" / "files" / "file-stray"
    stray.write_bytes(b"left by a crash")
    os.utime(stray, (1, 1))
    with running_node(store=str(store)) as node:
        until(lambda: not (stray.parent / gone["id"]).exists() and not stray.exists())
        assert node.http.get(f"/v1/files/{kept['id']}/content").content == b"{}"
