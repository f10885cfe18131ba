"""What a gateway reads of a request before it chooses a node."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ostro.gateway.asking import ENDPOINTS, Asked, read_asked

IMAGE = "data:image/png;base64," + "A" * 8000


def asked(path: str, **fields: Any) -> Asked:
    return read_asked(ENDPOINTS[path], json.dumps(fields).encode(), "m")


@pytest.mark.parametrize(
    "inputs",
    [
        {"text": "what is it"},
        {"image": IMAGE, "text": "what is it"},
        {"text": "what is it", "audio": "AAAA"},
        {"series": [1, 2.5, 3]},
        {"series": {"values": [1, 2]}, "image": IMAGE, "audio": None},
    ],
)
def test_inputs_of_infer_count_the_same_wherever_they_stand(inputs: dict[str, Any]) -> None:
    """A node must have their senses, and their price is held."""
    within, bare = asked("/v1/infer", inputs=inputs), asked("/v1/infer", **inputs)
    assert within.modalities == bare.modalities == {name for name, value in inputs.items() if value and name != "text"}
    assert within.prompt_tokens == bare.prompt_tokens
    assert bare.prompt_tokens < 20_000, "of media not the base64"
    nothing = asked("/v1/infer", max_tokens=1).prompt_tokens
    assert bare.prompt_tokens > nothing


def test_fields_that_are_no_inputs_count_for_nothing() -> None:
    messages = [{"role": "user", "content": "hello"}]
    assert asked("/v1/chat/completions", messages=messages, image=IMAGE).modalities == set()
