"""Which file of a folder is read, what its version is, and what is said about a bad one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizer_files import FILES, NEWER, SENTENCEPIECE, put, shipped, small_tekken, write_tekken

from ostro.core.errors import TokenizerError
from ostro.tokenizer import load_tokenizer

VERSIONS = {
    "mistral_instruct_tokenizer_240216.model.v2": "v2",
    "mistral_instruct_tokenizer_240323.model.v3": "v3",
    "mistral_instruct_tokenizer_241114.model.v7": "v7",
    "mistral_instruct_tokenizer_241114.model.v7m1": "v7",
    "tekken_240718.json": "v3",
    "tekken_240911.json": "v3",
    "tokenizer.model.v1": "v1",
}


@pytest.mark.parametrize("source", FILES)
def test_every_shipped_file_loads_with_its_version(source: str) -> None:
    tokenizer = shipped(source)
    assert tokenizer.version == VERSIONS[source]
    assert tokenizer.vocab_size in (32000, 32768, 131072)
    assert tokenizer.bos_id == 1
    assert tokenizer.eos_ids == (2,)
    assert tokenizer.is_special(1)
    assert tokenizer.token_bytes(2) == b"</s>"
    assert not tokenizer.is_special(tokenizer.vocab_size - 1)


@pytest.mark.parametrize("version", NEWER)
def test_version_of_tekken_comes_from_inside(version: str) -> None:
    assert small_tekken(version).version == version
    assert small_tekken(version).vocab_size == 1100


def test_no_file_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert load_tokenizer(tmp_path) is None


def test_tekken_is_preferred_then_sentencepiece(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    put("tokenizer.model.v1", tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    assert tokenizer.version == "v1"
    write_tekken(tmp_path, "v13")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    assert tokenizer.version == "v13"


def test_highest_version_in_a_name_is_preferred_to_a_bare_name(tmp_path: Path) -> None:
    put("tokenizer.model.v1", tmp_path).rename(tmp_path / "tokenizer.model")
    put("mistral_instruct_tokenizer_240323.model.v3", tmp_path)
    put("mistral_instruct_tokenizer_241114.model.v7m1", tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    assert tokenizer.version == "v7"


@pytest.mark.parametrize("source", SENTENCEPIECE)
def test_bare_model_tells_its_version_by_its_pieces(source: str, tmp_path: Path) -> None:
    put(source, tmp_path).rename(tmp_path / "tokenizer.model")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer is not None
    # v2 has the pieces of v3, and the same text template.
    assert tokenizer.version == VERSIONS[source].replace("v2", "v3")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Bye"},
    ]
    assert tokenizer.encode_chat(messages) == shipped(source).encode_chat(messages)


def test_name_that_claims_another_version_is_refused(tmp_path: Path) -> None:
    put("tokenizer.model.v1", tmp_path).rename(tmp_path / "tokenizer.model.v3")
    with pytest.raises(TokenizerError, match=r"tokenizer\.model\.v3 is named as version v3 .*\[INST\]"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tekken.json", b"{"),
        ("tekken.json", b"{}"),
        ("tekken.json", b"[]"),
        ("tekken.json", b"\xff\xfe"),
        ("tekken.json", json.dumps({"config": {"version": "v99"}}).encode()),
        ("tokenizer.model", b""),
        ("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\n"),
        ("tokenizer.model.v3", b"not a model"),
        ("tokenizer.model.v99", b"not a model"),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"\xff"),
    ],
)
def test_broken_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=name) as caught:
        load_tokenizer(tmp_path)
    assert "Download it again" in str(caught.value)


def test_tekken_cut_short_is_named(tmp_path: Path) -> None:
    path = write_tekken(tmp_path, "v13")
    content = json.loads(path.read_text())
    content["vocab"] = content["vocab"][:500]
    path.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=r"tekken\.json cannot be read"):
        load_tokenizer(tmp_path)


def test_import_is_light_and_no_file_brings_torch(tmp_path: Path) -> None:
    put("tokenizer.model.v1", tmp_path)
    program = (
        "import sys, pathlib, ostro.tokenizer, ostro.tokenizer.detokenizer\n"
        "heavy = {'torch', 'transformers', 'mistral_common', 'tokenizers', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"assert ostro.tokenizer.load_tokenizer(pathlib.Path({str(tmp_path)!r}))\n"
        "import ostro.tokenizer.huggingface, tokenizers\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
