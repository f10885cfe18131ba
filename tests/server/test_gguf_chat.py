"""A model as one GGUF file with its vocabulary and template: it chats as its folder does, from Python, from the command
line and over HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
import torch
from benchmarks.gguf_shapes import write_gguf
from real_nodes import served

import tiny_checkpoints
from ostro import LLM, SamplingParams
from ostro.core.paths import embedded_models
from ostro.weights.loader import load_model
from tokenizer.test_gguf_vocabulary import NANO, original
from tokenizer.test_templates import FAMILY

QUESTION = "My card has not arrived yet."
CONVERSATION = [{"role": "user", "content": QUESTION}]
GREEDY = SamplingParams(temperature=0, max_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, float16 numbers, so that they are the same in both."""
    torch.manual_seed(4)
    tokenizer, _ = original(NANO)
    path = tmp_path_factory.mktemp("mistral")
    model = tiny_checkpoints._mistral(vocab_size=tokenizer.vocab_size, max_position_embeddings=1024)
    tiny_checkpoints.save(model, path)
    model.half().save_pretrained(path)
    shutil.copy(embedded_models()[NANO] / "tekken.json", path)
    return path


@pytest.fixture(scope="module")
def answer(folder: Path) -> str:
    (output,) = LLM(folder, dtype="float32", kv_memory=1 << 24).chat(CONVERSATION, GREEDY)
    assert len(output.token_ids) == 8
    return output.text


@pytest.fixture(scope="module")
def file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    metadata = original(NANO)[1]

    def describe(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model(metadata["tokenizer.ggml.model"])
        writer.add_tokenizer_pre(metadata["tokenizer.ggml.pre"])
        writer.add_token_list(list(metadata["tokenizer.ggml.tokens"]))
        writer.add_token_types(list(metadata["tokenizer.ggml.token_type"]))
        writer.add_token_merges(list(metadata["tokenizer.ggml.merges"]))
        writer.add_bos_token_id(metadata["tokenizer.ggml.bos_token_id"])
        writer.add_eos_token_id(metadata["tokenizer.ggml.eos_token_id"])
        writer.add_chat_template(FAMILY)

    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_gguf(load_model(folder, dtype=torch.float32), path, "F16", describe)
    return path


def test_it_chats_as_its_folder_does(file: Path, folder: Path, answer: str) -> None:
    (ours,) = LLM(file, dtype="float32", kv_memory=1 << 24).chat(CONVERSATION, GREEDY)
    (other,) = LLM(folder, dtype="float32", kv_memory=1 << 24).chat(CONVERSATION, GREEDY)
    assert ours.prompt_token_ids == other.prompt_token_ids
    assert ours.text == other.text == answer


def test_from_the_command_line(file: Path, answer: str) -> None:
    command = [sys.executable, "-m", "ostro", "run", str(file), QUESTION, "--json", "--max-tokens", "8"]
    done = subprocess.run(
        [*command, "--temperature", "0", "--dtype", "float32"], capture_output=True, text=True, timeout=120
    )
    assert json.loads(done.stdout)["text"] == answer, done.stderr


def test_over_http(file: Path, answer: str) -> None:
    body = {"messages": CONVERSATION, "temperature": 0, "max_tokens": 8}
    with served(file, "--dtype", "float32") as node:
        (model,) = node.http.get("/v1/models").json()["data"]
        body["model"] = model["id"]
        found = node.http.post("/v1/chat/completions", json=body)
        assert found.json()["choices"][0]["message"]["content"] == answer, found.text
        assert model["capabilities"]["completion_chat"]
        assert not model["capabilities"]["function_calling"]
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        refused = node.http.post("/v1/chat/completions", json=body | {"tools": tools})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "tools"
