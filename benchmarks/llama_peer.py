"""llama.cpp as a peer, in a process of its own: `python benchmarks/llama_peer.py MODEL.gguf`.

Reads commands as JSON lines, answers each with one: {"run": "decode", "batch": 1, "prompt": 32, "new": 32} and
{"run": "prefill", "prompt": 512} give seconds; {"run": "memory"} gives the peak of resident bytes. Needs nothing but
llama-cpp-python, so that it can run in an environment of its own. Token ids are fed through the C interface: neither
tokenising nor sampling is in the times, greedy picks are made with numpy.
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
import time

import llama_cpp
import numpy as np


def main() -> None:
    options = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    peer = Peer(sys.argv[1], **options)
    print(json.dumps({"ready": True, "version": llama_cpp.__version__}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        kind = command.pop("run")
        print(json.dumps({"value": getattr(peer, kind)(**command)}), flush=True)


class Peer:
    """One model and one context with room for 16 sequences."""

    def __init__(
        self, path: str, threads: int = 2, context: int = 16384, flash: bool = True, mmap: bool = True
    ) -> None:
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.use_mmap = mmap
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        assert self.model
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, 2048, 512
        params.n_seq_max, params.n_threads, params.n_threads_batch = 16, threads, threads
        params.flash_attn_type = 1 if flash else 0
        params.kv_unified = True
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        assert self.context
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(2048, 0, 16)

    def decode(self, batch: int, prompt: int, new: int) -> float:
        """Seconds of `new` steps of `batch` sequences after prompts of `prompt` tokens."""
        self._clear()
        for sequence in range(batch):
            self._feed([(7 * i + 13 * sequence) % 1000 + 3 for i in range(prompt)], sequence, 0)
        tokens = [5] * batch
        started = time.perf_counter()
        for step in range(new):
            self._fill([(token, prompt + step, sequence, True) for sequence, token in enumerate(tokens)])
            tokens = [self._greedy(row) for row in range(batch)]
        return time.perf_counter() - started

    def prefill(self, prompt: int) -> float:
        """Seconds until the first token after a prompt is known."""
        self._clear()
        tokens = [(7 * i) % 1000 + 3 for i in range(prompt)]
        started = time.perf_counter()
        self._feed(tokens, 0, 0)
        self._greedy(-1)
        return time.perf_counter() - started

    def score(self, tokens: list[int]) -> float:
        """Mean negative log-likelihood (nats) of tokens 1.. each given those before it."""
        self._clear()
        total = 0.0
        self._fill([(token, at, 0, True) for at, token in enumerate(tokens)])
        for row, token in enumerate(tokens[1:]):
            logits = self._logits(row).astype(np.float64)
            logits -= logits.max()
            total += float(np.log(np.exp(logits).sum()) - logits[token])
        return total / (len(tokens) - 1)

    def memory(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def _feed(self, tokens: list[int], sequence: int, start: int) -> None:
        last = len(tokens) - 1
        for begin in range(0, len(tokens), 2048):
            part = tokens[begin : begin + 2048]
            self._fill([(token, start + begin + i, sequence, begin + i == last) for i, token in enumerate(part)])

    def _fill(self, rows: list[tuple[int, int, int, bool]]) -> None:
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.logits[i] = 1, wanted
            batch.seq_id[i][0] = sequence
        code = llama_cpp.llama_decode(self.context, batch)
        if code:
            raise RuntimeError(f"llama_decode: {code}")

    def _logits(self, row: int) -> np.ndarray:
        pointer = llama_cpp.llama_get_logits_ith(self.context, row)
        return np.ctypeslib.as_array(pointer, shape=(self.vocabulary,))

    def _greedy(self, row: int) -> int:
        return int(self._logits(row).argmax())


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    pass


if __name__ == "__main__":
    main()
