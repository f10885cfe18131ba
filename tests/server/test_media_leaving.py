"""Who leaves while the server still fetches for them leaves no fetch behind, over real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from nodes import Node, running_node

URL = "http://site:{}/slow.png"


@pytest.fixture(scope="module")
def site() -> Iterator[socket.socket]:
    """A host that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


@pytest.fixture(scope="module")
def node(site: socket.socket) -> Iterator[Node]:
    with running_node(site=site.getsockname()[1]) as running:
        yield running


def chat(port: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL.format(port)}}]}]


def bodies(port: int) -> dict[str, dict[str, Any]]:
    source = {"type": "image", "source": {"type": "url", "url": URL.format(port)}}
    seen = {"role": "user", "content": [{"type": "input_image", "image_url": URL.format(port)}]}
    return {
        "/v1/chat/completions": {"messages": chat(port)},
        "/v1/messages": {"max_tokens": 4, "messages": [{"role": "user", "content": [source]}]},
        "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": [source]}]},
        "/v1/responses": {"input": [seen]},
        "/v1/tokenize": {"messages": chat(port)},
        "/v1/embeddings": {"input": [chat(port)[0]["content"][0]]},
    }


@pytest.mark.parametrize("path", list(bodies(0)))
def test_who_leaves_ends_what_is_fetched_for_them(node: Node, site: socket.socket, path: str) -> None:
    body = json.dumps({"model": "fake", **bodies(site.getsockname()[1])[path]}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as raw:
        raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        fetching, _ = site.accept()
        fetching.settimeout(5)  # a fetch by itself is given up after 10 s
        received = b""
        while b"\r\n\r\n" not in received:  # who left sooner might be gone before anything was asked
            piece = fetching.recv(4096)
            assert piece, "hung up while the client was there"
            received += piece
    assert received.startswith(b"GET /slow.png")
    with fetching:
        assert fetching.recv(4096) == b"", "the server hangs up"
    assert node.complete("ok", max_tokens=3).json()["choices"][0]["text"] == "ok"
