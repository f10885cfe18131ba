"""EngineOptions: defaults that work together, and bounds named in the error."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ostro.core.errors import ConfigError
from ostro.core.options import EngineOptions

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("block_size", {"block_size": 0}),
    ("max_num_seqs", {"max_num_seqs": 0}),
    ("max_batch_tokens", {"max_batch_tokens": 0}),
    ("max_waiting", {"max_waiting": 0}),
    ("max_batch_tokens", {"max_batch_tokens": 63, "max_num_seqs": 64}),
    ("speculate", {"speculate": -1}),
    ("speculate", {"speculate": 17}),
    ("max_model_len", {"max_model_len": 1}),
    ("max_model_len", {"max_model_len": -5}),
    ("ageing_s", {"ageing_s": 0}),
    ("ageing_s", {"ageing_s": -1.0}),
    ("threads", {"threads": 0}),
    ("threads", {"threads": -1}),
    ("device", {"device": "tpu"}),
    ("device", {"device": "cuda:1"}),
    ("dtype", {"dtype": "int8"}),
    ("dtype", {"dtype": "fp32"}),
]


@pytest.mark.parametrize(("param", "fields"), REFUSED, ids=str)
def test_refused_by_name(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=param) as caught:
        EngineOptions(model="m", **fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_batch_tokens": 64, "max_num_seqs": 64},
        {"block_size": 1, "max_waiting": 1},
        {"speculate": 16},
        {"max_model_len": 2, "ageing_s": 1e-3, "threads": 1, "kv_memory": 1 << 30},
        {"device": "cuda", "dtype": "float16"},
    ],
)
def test_accepted_and_survives_msgpack(fields: dict[str, Any]) -> None:
    options = EngineOptions(model="m", **fields)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(options), type=EngineOptions) == options


def test_unknown_and_missing_options_are_errors() -> None:
    with pytest.raises(TypeError):
        EngineOptions(model="m", block_sise=16)  # type: ignore[call-arg]  # wrong on purpose
    with pytest.raises(TypeError):
        EngineOptions()  # type: ignore[call-arg]  # wrong on purpose
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"model": "m", "surprise": 1}), type=EngineOptions)
