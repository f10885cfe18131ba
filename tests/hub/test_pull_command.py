"""`ostro pull`, `ostro models` and `mistral-cli download` as processes, killed in the middle too."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hub.fake_hub import FakeHub, Faults
from hub.pulling import REPO, SHARD_1, SIZE

BIG = 8_000_000


def command(hub: FakeHub | None, home: Path, *arguments: str, program: str = "ostro.cli") -> list[str]:
    code = f"from {program} import main; main()"
    os.environ["HF_ENDPOINT"] = hub.url if hub else "http://127.0.0.1:1"
    return [sys.executable, "-c", code, *arguments]


def run(
    hub: FakeHub | None, home: Path, *arguments: str, program: str = "ostro.cli"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(hub, home, *arguments, program=program), capture_output=True, text=True, timeout=60)


@pytest.fixture
def big(repo: Path) -> Path:
    (repo / SHARD_1).write_bytes(random.Random(8).randbytes(BIG))
    return repo


def test_pull_prints_one_json_object_and_models_lists_it(repo: Path, home: Path) -> None:
    with FakeHub({REPO: repo}) as hub:
        first = run(hub, home, "pull", "mistral-7b-v0.3", "--json")
        second = run(hub, home, "pull", "mistral-7b-v0.3", "--json")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    told = json.loads(first.stdout)
    assert told["repo"] == REPO
    assert told["transferred"] == told["bytes"] > 0
    assert Path(told["path"]) == home / "models" / "mistralai--Mistral-7B-v0.3"
    assert "Chose the Hugging Face weights" in first.stderr
    assert json.loads(second.stdout)["transferred"] == 0
    listed = json.loads(run(None, home, "models", "--json").stdout)
    assert [row["name"] for row in listed["pulled"]] == ["mistral-7b-v0.3"]
    assert {"mistral-3-base", "pixtral-12b", "magistral-small"} <= {row["name"] for row in listed["known"]}
    plain = run(None, home, "models").stdout
    assert REPO in plain
    assert "mistral-3-base" in plain


def test_a_pull_killed_in_the_middle_goes_on(big: Path, home: Path) -> None:
    faults = Faults(chunk_delay_s=0.02, only=SHARD_1)
    with FakeHub({REPO: big}, faults) as hub:
        process = subprocess.Popen(
            command(hub, home, "pull", REPO), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        part = wait_for_part(home, 1_000_000)
        process.kill()
        process.wait()
        kept = part.stat().st_size
        assert 1_000_000 <= kept < BIG
        faults.chunk_delay_s = 0.0
        hub.forget()
        again = run(hub, home, "pull", REPO, "--json")
        assert again.returncode == 0, again.stderr
        assert [seen.range_start for seen in hub.file_requests(SHARD_1)] == [kept]
        assert json.loads(again.stdout)["transferred"] == BIG - kept + SIZE  # the rest of one shard, and the other
    assert (Path(json.loads(again.stdout)["path"]) / SHARD_1).read_bytes() == (big / SHARD_1).read_bytes()


def wait_for_part(home: Path, size: int) -> Path:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for part in home.rglob(f"{SHARD_1}.*.part"):
            if part.stat().st_size >= size:
                return part
        time.sleep(0.01)
    raise AssertionError("the transfer did not start")


def test_an_interrupt_ends_a_pull_with_130_and_one_line(big: Path, home: Path) -> None:
    with FakeHub({REPO: big}, Faults(chunk_delay_s=0.02, only=SHARD_1)) as hub:
        python, flag, code, *arguments = command(hub, home, "pull", REPO)
        # As in a terminal, even where the tests themselves run in the background and ignore it.
        heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        process = subprocess.Popen(
            [python, flag, heeds + code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_for_part(home, 200_000)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130, told
    assert told.splitlines()[-1] == "interrupted"
    assert "Traceback" not in told


def test_a_terminal_gets_a_progress_bar(repo: Path, home: Path) -> None:
    with FakeHub({REPO: repo}, Faults(chunk_delay_s=0.03)) as hub:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(command(hub, home, "pull", REPO), stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # the way Linux says that the other end is closed
            pass
        os.close(ours)
        assert process.wait(timeout=30) == 0
    assert b"pulling" in shown
    assert "━".encode() in shown
    assert b"MB" in shown


def test_mistral_cli_download_is_the_same_thing(repo: Path, home: Path, tmp_path: Path) -> None:
    with FakeHub({"mistralai/Ministral-3-8B-Base-2512": repo}) as hub:
        arguments = ("download", "--model", "mistral-3-base", "--output", str(tmp_path / "models"))
        done = run(hub, home, *arguments, program="mistral_sdk.cli")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / "mistral-3-base"
    assert (folder / SHARD_1).read_bytes() == (repo / SHARD_1).read_bytes()
    assert f"ostro serve {folder}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("pull", "mistral-7b-v03"), 1, "Did you mean mistral-7b-v0.3"),
        (("pull", "qqq"), 1, "`ostro models` lists the known names"),
        (("pull", "mistral-nemo"), 1, "error: "),
        (("pull",), 2, "Missing argument"),
        (("pull", "mistral-nemo", "--what"), 2, "See 'ostro pull --help'"),
    ],
)
def test_errors_are_one_line(home: Path, arguments: tuple[str, ...], code: int, told: str) -> None:
    done = run(None, home, *arguments)
    assert done.returncode == code
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
