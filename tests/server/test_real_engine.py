"""`ostro serve`, `run` and `chat` as a user starts them, over a tiny random checkpoint with a real tokenizer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from nodes import Node, until
from real_nodes import served, write_tiny_model

from ostro import LLM, SamplingParams

MESSAGES = [{"role": "user", "content": "where is the river?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "model"
    write_tiny_model(path)
    return path


@pytest.fixture(scope="module")
def real(folder: Path) -> Iterator[Node]:
    with served(folder, "--served-name", "tiny", "--kv-memory", "4MB", "--max-num-seqs", "8") as node:
        yield node


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder, kv_memory=4_000_000, threads=1)


def test_the_server_answers_as_the_offline_face_does(real: Node, llm: LLM) -> None:
    params = SamplingParams(max_tokens=20, temperature=0.8, seed=11, top_p=0.9, n=2)
    expected = llm.chat(MESSAGES, params)[0]
    fields = {"messages": MESSAGES, "max_tokens": 20, "temperature": 0.8, "seed": 11, "top_p": 0.9, "n": 2}
    body = real.http.post("/v1/chat/completions", json={**fields, "return_token_ids": True}).json()
    assert [choice["token_ids"] for choice in body["choices"]] == [c.token_ids for c in expected.completions]
    assert [choice["message"]["content"] for choice in body["choices"]] == [c.text for c in expected.completions]
    assert body["usage"]["prompt_tokens"] == expected.usage.prompt_tokens
    texts = ["", ""]
    with real.streaming("/v1/chat/completions", **fields) as payloads:
        for payload in payloads:
            for choice in payload["choices"] if payload != "[DONE]" else []:
                texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [c.text for c in expected.completions]


def test_token_prompts_with_logprobs(real: Node, llm: LLM) -> None:
    prompt = [1, 60, 61, 62]
    params = SamplingParams(max_tokens=6, temperature=0, logprobs=2, ignore_eos=True)
    expected = llm.generate([prompt], params)[0]
    choice = real.complete(
        prompt, max_tokens=6, temperature=0, logprobs=2, ignore_eos=True, return_token_ids=True
    ).json()["choices"][0]
    assert choice["token_ids"] == expected.token_ids
    assert expected.logprobs is not None
    assert choice["logprobs"]["token_logprobs"] == pytest.approx([e.logprob for e in expected.logprobs], abs=1e-5)
    refused = real.complete([10**6])
    assert refused.status_code == 400
    assert "vocabulary" in refused.json()["error"]["message"]


def test_each_chunk_tells_the_usage_so_far_where_that_is_asked_for(real: Node) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    for path, fields in (
        ("/v1/completions", {"prompt": [1, 60, 61], "ignore_eos": True}),
        ("/v1/chat/completions", {"messages": MESSAGES, "ignore_eos": True}),
    ):
        with real.streaming(path, **fields, max_tokens=12, stream_options=options) as payloads:
            chunks = [one for one in payloads if one != "[DONE]"]
        counts = [one["usage"]["completion_tokens"] for one in chunks if one.get("usage")]
        assert counts == sorted(counts)
        assert counts[-1] == 12
        assert len([one for one in chunks if one["choices"] and one.get("usage")]) > 3
    with real.streaming("/v1/completions", prompt=[1, 60, 61], max_tokens=4, ignore_eos=True) as payloads:
        assert not any("usage" in one for one in payloads if one != "[DONE]")


def test_a_repeated_prompt_is_cached_and_metrics_say_so(real: Node) -> None:
    prompt = [1, *range(60, 200)]
    for _ in range(2):
        body = real.complete(prompt, max_tokens=2, ignore_eos=True).json()
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] >= 128
    assert real.metric("vllm:prefix_cache_hits_total", model_name="tiny") >= 128
    assert real.metric("vllm:prefix_cache_queries_total") >= 282


def test_many_at_once_all_finish(real: Node) -> None:
    def ask(index: int) -> int:
        body = real.complete([1, 60 + index], max_tokens=20 + index, ignore_eos=True).json()
        return int(body["usage"]["completion_tokens"])

    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(ask, range(24))) == [20 + index for index in range(24)]
    until(lambda: real.metric("vllm:num_requests_running") == 0)


def test_a_client_that_leaves_frees_the_blocks(real: Node) -> None:
    with real.streaming("/v1/completions", prompt=[1, 2, 3], max_tokens=500, ignore_eos=True) as payloads:
        next(payloads)
        until(lambda: real.metric("vllm:kv_cache_usage_perc") > 0)
    until(lambda: real.metric("vllm:num_requests_running") == 0)
    until(lambda: real.metric("vllm:kv_cache_usage_perc") == 0)


def test_chat_at_an_endpoint_with_piped_input(real: Node, llm: LLM) -> None:
    second = [*MESSAGES, {"role": "assistant", "content": ""}, {"role": "user", "content": "and now?"}]
    params = SamplingParams(max_tokens=8, temperature=0)
    first = llm.chat(MESSAGES, params)[0].text
    second[1]["content"] = first
    expected = [first, llm.chat(second, params)[0].text, first]
    lines = "where is the river?\nand now?\n/reset\nwhere is the river?\n/exit\nnot read\n"
    done = _ostro("chat", "--endpoint", real.url, "--max-tokens", "8", given=lines)
    assert done.stdout == "".join(f"{answer}\n" for answer in expected)


def test_a_killed_engine_comes_back(real: Node) -> None:
    (engine,) = psutil.Process(real.process.pid).children()
    os.kill(engine.pid, signal.SIGKILL)
    until(lambda: real.http.get("/health/ready").status_code == 503)
    real.wait_ready()
    assert real.complete([1, 60], max_tokens=3, ignore_eos=True).status_code == 200


def test_sigterm_finishes_a_running_stream_and_exits_with_0(real: Node) -> None:
    """Last in this file: it ends the server."""
    with real.streaming("/v1/completions", prompt=[1, 2, 3], max_tokens=400, ignore_eos=True) as payloads:
        next(payloads)
        real.terminate()
        *chunks, _ = payloads
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert real.process.wait(60) == 0


def _ostro(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ostro", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=200, check=False)


def test_run_streams_text_or_prints_json(folder: Path, llm: LLM) -> None:
    params = SamplingParams(max_tokens=6, temperature=0)
    expected = llm.chat(MESSAGES, params)[0]
    question = str(MESSAGES[0]["content"])
    done = _ostro("run", str(folder), question, "--max-tokens", "6", "--temperature", "0", "--json")
    answer = json.loads(done.stdout)
    assert answer["text"] == expected.text
    assert answer["token_ids"] == expected.token_ids
    assert answer["usage"]["prompt_tokens"] == expected.usage.prompt_tokens
    raw = _ostro("run", str(folder), "-", "--max-tokens", "6", "--temperature", "0", "--raw", given=question)
    assert raw.stdout == llm.generate(question, params)[0].text + "\n"


def test_local_chat_keeps_the_conversation(folder: Path, llm: LLM) -> None:
    params = SamplingParams(max_tokens=8, temperature=0)
    system = {"role": "system", "content": "be brief"}
    expected = llm.chat([system, *MESSAGES], params)[0].text
    done = _ostro("chat", str(folder), "--max-tokens", "8", given="/system be brief\nwhere is the river?\n")
    assert done.stdout == expected + "\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["serve", "no-such-model"], 1, "no-such-model"),
        (["serve", "--port", "70000"], 2, "port"),
        (["serve", ".", "--device", "tpu", "--port", "0"], 1, "device"),
        (["serve", ".", "--kv-memory", "lots"], 2, "lots"),
        (["serve", ".", "--max-num-seqs", "0"], 1, "max_num_seqs"),
        (["serve", ".", "--kv-dtype", "int5"], 1, "auto, float32, bfloat16, float16, int8"),
        (["run", "no-such-model", "x"], 1, "no-such-model"),
        (["chat", "--endpoint", "nonsense"], 1, "nonsense"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], code: int, said: str) -> None:
    done = _ostro(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_model_is_served_in_fewer_bits_and_with_a_smaller_cache(folder: Path) -> None:
    options = ("--quantize", "int8-g0", "--kv-dtype", "int8", "--kv-memory", "4MB")
    with served(folder, *options) as node:
        (card,) = node.http.get("/v1/models").json()["data"]
        assert card["dtype"] == "float32"  # of activations
        given = {"messages": MESSAGES, "max_tokens": 12, "temperature": 0, "return_token_ids": True}
        tokens = node.http.post("/v1/chat/completions", json=given).json()["choices"][0]["token_ids"]
    few = LLM(folder, quantize="int8-g0", kv_dtype="int8", kv_memory=4_000_000, threads=1)
    expected = few.chat(MESSAGES, SamplingParams(max_tokens=12, temperature=0))[0].token_ids
    assert tokens == expected
    cache = few.engine.runner.cache
    assert cache.keys[0].dtype == torch.int8
    assert few.engine.runner.model.quantised


def test_a_taken_port_is_told_before_anything_loads(folder: Path, real: Node) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = _ostro("serve", str(folder), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "--port" in done.stderr


def test_a_folder_that_is_no_checkpoint_ends_serve_with_1(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = _ostro("serve", str(tmp_path), "--port", "0")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


def test_a_scheme_that_there_is_not_ends_serve_without_a_traceback(folder: Path) -> None:
    done = _ostro("serve", str(folder), "--port", "0", "--quantize", "int5")
    assert done.returncode == 1
    assert "error: 'int5' names no scheme. Take int4 or int8" in done.stderr
    assert "Traceback" not in done.stderr


def test_who_has_another_key_or_tenant_shares_no_cache(folder: Path) -> None:
    """What is cached shows in the time that an answer takes (CVE-2025-46570); here in the usage as well."""
    options = ("--api-key", "one", "--api-key", "two", "--gateway-key", "gateway")
    with served(folder, "--served-name", "tiny", "--kv-memory", "4MB", *options) as node:
        prompt = [1, *range(60, 200)]

        def cached(key: str, tenant: str = "") -> int:
            headers = {"authorization": f"Bearer {key}", "x-ostro-tenant": tenant}
            body = {"prompt": prompt, "max_tokens": 1, "seed": 0}
            answer = node.http.post("/v1/completions", json=body, headers=headers).json()
            return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

        callers = [("one", ""), ("two", ""), ("gateway", "acme"), ("gateway", "other")]
        assert [cached(*caller) for caller in callers] == [0, 0, 0, 0]
        assert all(cached(*caller) >= 128 for caller in callers)
        assert cached("two", "one") >= 128, "its own: a tenant counts with a gateway's key alone"
