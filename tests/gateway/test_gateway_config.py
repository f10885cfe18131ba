"""`gateway.yaml`: what is wrong is told by its key, and nothing is passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ostro.core.errors import ConfigError
from ostro.core.money import Price
from ostro.gateway.config import GatewayConfig, read_config


def good() -> dict[str, Any]:
    return {
        "nodes": [
            {
                "name": "gpu",
                "url": "http://10.0.0.5:8000/v1",
                "kind": "ostro",
                "device": "accelerator",
                "key_env": "GPU_KEY",
                "models": [{"name": "small", "modalities": ["image"], "context": 4096}],
                "cost": {"prompt_million": 0.1},
            },
            {"name": "cloud", "url": "https://api.example.com", "models": [{"name": "large", "upstream": "vendor-l"}]},
        ],
        "tiers": {"research": {"requests_per_minute": 60}, "commercial": {"price": {"call": "0.002"}}},
    }


def read(tmp_path: Path, config: Any, environment: dict[str, str] | None = None) -> GatewayConfig:
    path = tmp_path / "gateway.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return read_config(path, {"GPU_KEY": "secret"} if environment is None else environment)


def test_a_good_one_is_read(tmp_path: Path) -> None:
    config = read(tmp_path, good())
    assert config.tiers["commercial"].price == Price(call=2000)
    assert config.tiers["research"].limits.requests_per_minute == 60
    assert config.keys == {"gpu": "secret"}
    assert config.costs["gpu"] == Price(prompt=100_000)
    assert config.store == str(tmp_path / "gateway.db"), "beside the file, wherever it is started"
    assert config.name


def changed(**changes: Any) -> dict[str, Any]:
    """Paths such as nodes__0__url, and what is put there; ... takes it away."""
    config = good()
    for path, value in changes.items():
        holder: Any = config
        *way, last = (int(one) if one.isdecimal() else one for one in path.split("__"))
        for step in way:
            holder = holder[step]
        if value is ...:
            del holder[last]
        else:
            holder[last] = value
    return config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, "unknown field `colour`"),
        ({"nodes__0__colour": "red"}, r"unknown field `colour` - at `\$.nodes\[0\]`"),
        ({"tiers__research__request_per_minute": 5}, "unknown field `request_per_minute`"),
        ({"nodes": ...}, "`nodes`"),
        ({"nodes": []}, "nobody to answer"),
        ({"tiers": {}}, "research and commercial"),
        ({"nodes__0__url": "10.0.0.5:8000"}, r"nodes\[0\].url must be a URL"),
        ({"nodes__0__url": "http://user:pw@x"}, "must not hold a password"),
        ({"nodes__1__name": "gpu"}, "two nodes named 'gpu'"),
        ({"nodes__0__name": "a b"}, "no name for a node"),
        ({"nodes__0__device": "tpu"}, "tpu"),
        ({"nodes__0__models": []}, r"nodes\[0\].models is empty"),
        ({"nodes__0__models__0__modalities": ["smell"]}, "'smell' is none of image, audio, series"),
        ({"nodes__0__capacity": 0}, "capacity"),
        ({"tiers__commercial__price__call": "free"}, "tiers.commercial.price.call must be US dollars"),
        ({"tiers__commercial__price__call": 0.0000001}, "finer than a millionth"),
        ({"routing": {"spill_above": 0.5, "spill_below": 0.6}}, "spill_below"),
        ({"routing": {"spill_above": 1.5}}, "spill_above"),
    ],
)
def test_what_is_wrong_is_told_by_its_key(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read(tmp_path, changed(**changes))
    assert str(tmp_path / "gateway.yaml") in caught.value.message


def test_a_key_that_the_environment_does_not_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the environment has no GPU_KEY"):
        read(tmp_path, good(), {})


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\0"])
def test_what_is_no_configuration_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.yaml"):
        read(tmp_path, text)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.yaml")
