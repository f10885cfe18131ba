"""A gateway as its operator starts it: `ostro gateway` in a process, keys by `ostro keys` or its store."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import yaml

from ostro.storage import Database
from ostro.storage.keys import NewKey, create_key

PRICE = 2000  # micro-dollars a call of the tier "commercial"


def node(url: str, name: str = "stub", **settings: Any) -> dict[str, Any]:
    return {"name": name, "url": url, "kind": "ostro", "models": [{"name": "m"}], **settings}


def settings(*nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "nodes": list(nodes),
        "tiers": {
            "research": {},
            "commercial": {"price": {"call": "0.002"}},
            "tokens": {"price": {"call": "0.002", "prompt_million": 1, "completion_million": 1000}},
        },
        "routing": {"probe_s": 0.2, "probe_timeout_s": 2, "breaker_s": 1},
        **more,
    }


class RunningGateway:
    """config: as `settings` makes it. `with` starts it and waits until it answers."""

    def __init__(self, folder: Path, config: dict[str, Any], environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.config = folder / "gateway.yaml"
        self.config.write_text(yaml.safe_dump(config))
        self.log = folder / "gateway.log"
        self._store = config.get("store", str(folder / "gateway.db"))
        self.environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.port = 0

    def start(self) -> RunningGateway:
        command = [sys.executable, "-m", "ostro", "gateway", "--config", str(self.config), "--port", str(self.port)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--grace", "5"], stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found is not None, f"{line}{self.log.read_text()}"
        self.url = found[0]
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(30)
        self.__exit__()
        return code

    def __enter__(self) -> RunningGateway:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def key(self, **wanted: Any) -> str:
        return self.made_key(**wanted)[0]

    def made_key(self, **wanted: Any) -> tuple[str, str]:
        """The key and its id."""
        database = Database(self._store, servers=True)
        try:
            given = {"name": "test", "tenant": "acme", "tier": "commercial", **wanted}
            secret, key = database.write_now(lambda connection: create_key(connection, NewKey(**given)))
        finally:
            database.close()
        return secret, key.id

    def client(self, key: str | None, **options: Any) -> httpx2.Client:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30, **options)

    def wait_for(self, key: str, nodes: int = 1) -> None:
        """Until so many nodes answer."""
        with self.client(key) as client:
            for _ in range(200):
                response = client.get("/health/ready")
                total = len(yaml.safe_load(self.config.read_text())["nodes"])
                if response.status_code == 200 and total - len(response.json()["away"]) >= nodes:
                    return
                time.sleep(0.05)
        raise AssertionError(self.log.read_text())


def asking(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def events(response: httpx2.Response) -> list[str]:
    """What the data lines of a stream say."""
    return [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]


def text_of(response: httpx2.Response) -> str:
    chunks = [json.loads(one) for one in events(response) if one != "[DONE]"]
    return "".join(choice["delta"].get("content") or "" for one in chunks for choice in one.get("choices", ()))
