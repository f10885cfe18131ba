"""`ostro serve --model a=… --model b=…` as a user starts it, with real engines."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from nodes import Node

from ostro.core.paths import embedded_models

SMALL = ("--port", "0", "--threads", "1", "--kv-memory", "16MB")
QUESTION = "I am still waiting on my card?"


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose weights were cut off on the way."""
    folder = tmp_path_factory.mktemp("checkpoints") / "broken"
    shutil.copytree(embedded_models()["ostro-nano"], folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1_000_000)
    return folder


def test_two_models_take_turns_in_a_budget_for_one(broken: Path, tmp_path: Path) -> None:
    models = ["--model", "a=ostro-nano", "--model", "b=ostro-nano", "--model", f"c={broken}"]
    command = [sys.executable, "-m", "ostro", "serve", *models, *SMALL, "--memory-budget", "900MiB"]
    with (
        (tmp_path / "log").open("w") as written,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=written, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            node = Node(process, int(process.stdout.readline().rsplit(":", 1)[1]))
            with node.http:
                _take_turns(node)
        finally:
            process.kill()
    log = (tmp_path / "log").read_text()
    assert "'b' takes about 0.66 GiB" in log
    assert "Models may take 0.88 GiB together" in log


def _take_turns(node: Node) -> None:
    server = psutil.Process(node.process.pid)
    seen = set()
    for name in ("a", "b", "a"):
        answer = node.chat(QUESTION, model=name, temperature=0)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == name
        assert answer.json()["choices"][0]["message"]["content"].startswith("card_arrival")
        (engine,) = server.children()  # never two at a time
        seen.add(engine.pid)
    assert len(seen) == 3
    refused = node.chat(QUESTION, model="c")
    assert refused.status_code == 503
    assert "model.safetensors is not a whole safetensors file" in refused.json()["message"]
    assert node.chat(QUESTION, model="a").status_code == 200
    states = {model["id"]: model["state"] for model in node.http.get("/v1/models").json()["data"]}
    assert states == {"a": "ready", "b": "unloaded", "c": "failed"}
    assert node.http.get("/health/ready").status_code == 200
    (engine,) = server.children()
    node.terminate()
    assert node.process.wait(30) == 0
    assert not psutil.pid_exists(engine.pid)


def test_a_model_that_never_fits_is_refused_at_the_start() -> None:
    command = [sys.executable, "-m", "ostro", "serve", "ostro-nano", *SMALL, "--memory-budget", "100MiB"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "more than the budget of 100 MiB" in done.stderr.splitlines()[-1]


def test_what_is_done_with_a_model_is_no_part_of_its_name(node: Node) -> None:
    for action in ("load", "unload"):
        answer = node.http.request("OPTIONS", f"/v1/models/any/{action}")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert node.http.get("/v1/models/owner/name").json()["error"]["code"] == "model_not_found"
