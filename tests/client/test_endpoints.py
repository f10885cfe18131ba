"""Which nodes are tried, in which order, and why."""

from __future__ import annotations

import pytest

from ostro.core.errors import ConfigError
from ostro.routing.endpoints import OWN_EDGE, candidates, is_local

BOTH = {"OSTRO_EDGE_URL": "http://edge:1/v1/", "OSTRO_CLOUD_URL": "https://cloud"}


@pytest.mark.parametrize(
    ("endpoint", "mode", "environment", "expected"),
    [
        ("http://127.0.0.1:9", "auto", {}, [("edge", "http://127.0.0.1:9")]),
        ("https://far.example/v1", "auto", {}, [("cloud", "https://far.example")]),
        ("https://far.example", "edge", {}, [("edge", "https://far.example")]),
        ("edge", "auto", {}, [("edge", OWN_EDGE)]),
        ("cloud", "auto", BOTH, [("cloud", "https://cloud")]),
        ("cloud/edge", "auto", {}, [("edge", OWN_EDGE)]),
        ("cloud/edge", "auto", BOTH, [("edge", "http://edge:1"), ("cloud", "https://cloud")]),
        ("edge/cloud", "auto", BOTH, [("edge", "http://edge:1"), ("cloud", "https://cloud")]),
        (
            "cloud/edge",
            "auto",
            {"OSTRO_CLOUD_URL": "https://cloud"},
            [("cloud", "https://cloud"), ("edge", OWN_EDGE)],
        ),
        ("cloud/edge", "cloud", BOTH, [("cloud", "https://cloud")]),
        ("cloud/edge", "edge", BOTH, [("edge", "http://edge:1")]),
    ],
)
def test_candidates(endpoint: str, mode: str, environment: dict[str, str], expected: list[tuple[str, str]]) -> None:
    found = candidates(endpoint, mode, environment)
    assert [(candidate.route, candidate.url) for candidate in found] == expected
    assert all(candidate.reason for candidate in found)


@pytest.mark.parametrize(
    ("endpoint", "mode", "environment"),
    [
        ("cloud", "auto", {}),
        ("cloud/edge", "cloud", {}),
        ("edge", "cloud", BOTH),
        ("cloud", "edge", BOTH),
        ("edge", "auto", {"OSTRO_EDGE_URL": "not a url"}),
    ],
)
def test_what_cannot_be_is_told(endpoint: str, mode: str, environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        candidates(endpoint, mode, environment)


def test_local_hosts() -> None:
    assert is_local("http://localhost:1")
    assert is_local("http://[::1]:1")
    assert not is_local("http://127.0.0.1.evil.example")
    assert not is_local("http://10.0.0.1")
