"""lm-eval's command line (local-chat-completions) against a live node, with a task of our own: no hub is reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from nodes import Node
from script import ANSWER, HELLO, RESULT, SCRIPT, THINK

TASK = """\
task: ostro_clients
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n\\n"]
  max_gen_toks: 64
  temperature: 0.0
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
DOCS = [
    {"question": HELLO, "answer": SCRIPT[HELLO]},
    {"question": f"Is it {RESULT} in Paris?", "answer": ANSWER},
    {"question": THINK, "answer": "Four."},  # what was thought is no part of the answer
    {"question": "What is not in the script?", "answer": "It is not there."},
]


def _evaluate(node: Node, folder: Path, *, key: str, concurrent: int) -> dict[str, Any]:
    data = folder / "docs.jsonl"
    data.write_text("\n".join(map(json.dumps, DOCS)))
    (folder / "task.yaml").write_text(TASK.format(data=data))
    given = {"model": "scripted", "base_url": f"{node.base}/chat/completions", "num_concurrent": concurrent}
    command = [str(Path(sys.executable).with_name("lm_eval")), "run", "--model", "local-chat-completions"]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in given.items())]
    command += ["--include_path", str(folder), "--tasks", "ostro_clients", "--apply_chat_template"]
    command += ["--output_path", str(folder / "out"), "--log_samples"]
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "OPENAI_API_KEY": key}
    run = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3_000:]
    (results,) = (folder / "out").rglob("results_*.json")
    scores: dict[str, Any] = json.loads(results.read_text())["results"]["ostro_clients"]
    return scores


def test_answers_are_scored(scripted: Node, tmp_path: Path) -> None:
    assert _evaluate(scripted, tmp_path, key="any", concurrent=2)["exact_match,none"] == 0.75


def test_a_key_is_sent(keyed: Node, tmp_path: Path) -> None:
    assert _evaluate(keyed, tmp_path, key="right", concurrent=1)["exact_match,none"] == 0.75
