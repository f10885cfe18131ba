"""`ostro gateway` and `ostro keys` as an operator types them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml


def ostro(*arguments: str, code: int = 0) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-m", "ostro", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "gateway.yaml"
    nodes = [{"name": "n", "url": "http://127.0.0.1:9", "key_env": "NOT_SET_HERE", "models": [{"name": "m"}]}]
    path.write_text(yaml.safe_dump({"nodes": nodes, "tiers": {"research": {}, "commercial": {}}}))
    return str(path)


def test_keys_are_made_listed_and_revoked(config: str) -> None:
    """The nodes' own keys are not needed for that."""
    secret, told = ostro(
        "keys", "create", "--config", config, "--name", "acme", "--tier", "commercial", "--budget", "25"
    )
    assert secret.startswith("ostro-")
    assert "not shown again" in told
    listed, _ = ostro("keys", "list", "--config", config)
    assert secret.strip() not in listed
    assert "acme" in listed
    assert "of $25.00" in listed
    records = json.loads(ostro("keys", "list", "--config", config, "--json")[0])
    assert [one["name"] for one in records] == ["acme"]
    assert "digest" not in records[0]
    assert "revoked" in ostro("keys", "revoke", records[0]["id"], "--config", config)[0]
    assert "revoked" in ostro("keys", "list", "--config", config)[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "--name", "x", "--tier", "gold"], "'tier' must be one of commercial, research"),
        (["create", "--name", "x", "--tier", "research", "--budget", "much"], "budget_usd must be US dollars"),
        (["create", "--name", " ", "--tier", "research"], "'name' must have"),
        (["create", "--name", "x", "--tier", "research", "--concurrency", "0"], "'concurrency' must be"),
        (["revoke", "key-none"], "no key"),
    ],
)
def test_what_is_wrong_with_a_key_is_one_line(config: str, arguments: list[str], words: str) -> None:
    _, told = ostro("keys", *arguments, "--config", config, code=1)
    assert words in told
    assert len(told.strip().splitlines()) == 1


def test_a_gateway_that_cannot_start_says_why(config: str, tmp_path: Path) -> None:
    assert "NOT_SET_HERE" in ostro("gateway", "--config", config, code=1)[1]
    assert "cannot be read" in ostro("gateway", "--config", str(tmp_path / "none.yaml"), code=1)[1]
    store = tmp_path / "store"
    values = yaml.safe_load(Path(config).read_text())
    del values["nodes"][0]["key_env"]
    Path(config).write_text(yaml.safe_dump({**values, "store": "mysql://x/y"}))
    assert "PostgreSQL" in ostro("gateway", "--config", config, code=1)[1]
    store.write_bytes(b"no database" * 100)
    Path(config).write_text(yaml.safe_dump({**values, "store": str(store)}))
    assert "Cannot open the store" in ostro("gateway", "--config", config, code=1)[1]


def test_help_has_an_example() -> None:
    assert "Example: ostro gateway" in ostro("gateway", "--help")[0]
    assert "Example: ostro keys create" in ostro("keys", "create", "--help")[0]


def test_a_gateway_imports_no_torch_and_no_model_code() -> None:
    started = time.perf_counter()
    code = (
        "import sys; from ostro.gateway.app import Gateway; from ostro.gateway.run import serve_gateway;"
        "print([name for name in ('torch', 'numpy', 'PIL', 'soundfile', 'mistral_common') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - started < 30
