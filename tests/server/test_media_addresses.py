"""Addresses of media that a node started with `--allow-media-from` does not fetch, at every door that takes one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from nodes import Node
from real_nodes import served
from test_series_doors import write_sensing_model

TEXT = {"type": "text", "text": "what is it"}
# Named by --allow-media-from, and not.
LISTED, OTHER = "media.example", "other.example"
# Both names are this machine's, as whoever owns a name can say; and what was looked up is written down.
RESOLVER = """
import socket

_real = socket.getaddrinfo


def _look_up(host, *rest, **named):
    name = host.decode() if isinstance(host, bytes) else str(host)
    if not name.rstrip(".").endswith(".example"):
        return _real(host, *rest, **named)
    with open({log!r}, "a") as file:
        print(name, file=file)
    return _real("127.0.0.1", *rest, **named)


socket.getaddrinfo = _look_up
"""


def user(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def doors(url: str) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Path, body, and the field that holds the address."""
    chat, place = "/v1/chat/completions", "messages[0].content"
    source = {"type": "url", "url": url}
    part = {"type": "image_url", "image_url": {"url": url}}
    return {
        "chat": (chat, {"messages": user(TEXT, part)}, f"{place}[1].image_url.url"),
        "chat, plain": (chat, {"messages": user({"type": "image_url", "image_url": url})}, f"{place}[0].image_url"),
        "chat, sound": (
            chat,
            {"messages": user({"type": "audio_url", "audio_url": {"url": url}})},
            f"{place}[0].audio_url.url",
        ),
        "inline": (chat, {"messages": [{"role": "user", "content": f"<image>{url}</image> what is it"}]}, place),
        "inline in a part": (
            chat,
            {"messages": user({"type": "text", "text": f"<audio>{url}</audio>"})},
            f"{place}[0].text",
        ),
        "responses": (
            "/v1/responses",
            {"input": user({"type": "input_image", "image_url": url})},
            "input[0].content[0].image_url",
        ),
        "messages": (
            "/v1/messages",
            {"max_tokens": 3, "messages": user({"type": "image", "source": source}, TEXT)},
            f"{place}[0].source.url",
        ),
        "infer": ("/v1/infer", {"inputs": {"text": "what is it", "image": url}}, "inputs.image"),
        "infer inline": ("/v1/infer", {"inputs": {"text": f"<image>{url}</image>"}}, "inputs.text"),
        "embeddings": ("/v1/embeddings", {"input": ["a river", {"image": url}]}, "input[1].image"),
        "embeddings, part": ("/v1/embeddings", {"input": [part]}, "input[0].image_url.url"),
        "tokenize": ("/tokenize", {"messages": user(part)}, f"{place}[0].image_url.url"),
    }


@dataclass
class Inside:
    """What must not be reached: a service of this machine that counts who comes."""

    log: Path
    socket: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    connections: int = 0

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def looked_up(self) -> list[str]:
        """Since the last time."""
        names = self.log.read_text().split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return names


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    inside = Inside(tmp_path_factory.mktemp("names") / "looked-up")
    (inside.log.parent / "sitecustomize.py").write_text(RESOLVER.format(log=str(inside.log)))
    thread = threading.Thread(target=inside.run, daemon=True)
    thread.start()
    yield inside
    inside.socket.shutdown(socket.SHUT_RDWR)
    inside.socket.close()
    thread.join(10)


@pytest.fixture(scope="module")
def node(inside: Inside, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("addresses") / "senses"
    write_sensing_model(folder)
    allowed = (f"{LISTED}:{inside.port}", f"127.0.0.1:{inside.port}")
    options = [argument for host in allowed for argument in ("--allow-media-from", host)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(inside.log.parent))
        with served(folder, *options) as running:
            yield running


@pytest.mark.parametrize("door", doors(""))
@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (OTHER, "a host or a port that this server does not fetch from"),
        (LISTED, "not at a public host"),
        ("127.0.0.1", "not at a public host"),
    ],
    ids=["not listed", "listed, a name of this machine", "listed, an address of this machine"],
)
def test_nothing_is_fetched_from_inside(node: Node, inside: Inside, door: str, host: str, reason: str) -> None:
    path, body, field = doors(f"http://{host}:{inside.port}/a.png")[door]
    answer = node.http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert reason in error["message"]
    if path == "/v1/messages":
        assert error["type"] == "invalid_request_error"
    else:
        assert (error["code"], error["param"]) == ("media_not_fetched", field)
    assert inside.looked_up() == ([f"{LISTED}."] if host == LISTED else []), "only names that are listed are resolved"
    assert inside.connections == 0


def test_what_is_inside_would_have_been_reached(inside: Inside) -> None:
    """So that the count above means something."""
    with socket.create_connection(("127.0.0.1", inside.port)) as connection:
        assert connection.recv(1) == b""
    assert inside.connections == 1
    inside.connections = 0
