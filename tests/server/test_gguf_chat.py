"""A trained model as one GGUF file with its vocabulary and template: it chats as its folder does, from Python, from
the command line and over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
from benchmarks.gguf_shapes import write_gguf
from real_nodes import served

from ostro import LLM, SamplingParams
from ostro.core.paths import embedded_models
from ostro.weights.loader import load_model
from tokenizer.test_gguf_vocabulary import NANO, original
from tokenizer.test_templates import FAMILY

QUESTION = "My card has not arrived yet."


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
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

    path = tmp_path_factory.mktemp("gguf") / "nano.gguf"
    write_gguf(load_model(embedded_models()[NANO]), path, "Q8_0", describe)
    return path


def test_it_chats_as_its_folder_does(nano: Path) -> None:
    conversation = [{"role": "user", "content": QUESTION}]
    greedy = SamplingParams(temperature=0, max_tokens=16)
    (ours,) = LLM(nano, kv_memory=1 << 24).chat(conversation, greedy)
    (folder,) = LLM(NANO, kv_memory=1 << 24).chat(conversation, greedy)
    assert ours.prompt_token_ids == folder.prompt_token_ids
    assert ours.text == folder.text == "card_arrival"


def test_from_the_command_line(nano: Path) -> None:
    command = [sys.executable, "-m", "ostro", "run", str(nano), QUESTION, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)["text"] == "card_arrival", done.stderr


def test_over_http(nano: Path) -> None:
    body = {"model": "nano.gguf", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    with served(nano) as node:
        (model,) = node.http.get("/v1/models").json()["data"]
        body["model"] = model["id"]
        answer = node.http.post("/v1/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"] == "card_arrival", answer.text
        assert model["capabilities"]["completion_chat"]
        assert not model["capabilities"]["function_calling"]
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        refused = node.http.post("/v1/chat/completions", json=body | {"tools": tools})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "tools"
