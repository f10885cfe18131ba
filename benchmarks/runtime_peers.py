"""OpenVINO GenAI and ONNX Runtime GenAI as peers, in processes and environments of their own.

    python benchmarks/runtime_peers.py make openvino CHECKPOINT OUT
    python benchmarks/runtime_peers.py make onnxruntime CHECKPOINT OUT
    python benchmarks/runtime_peers.py serve openvino OUT '{"threads": 2}'

The first environment has openvino-genai and optimum-intel[openvino], the second onnxruntime-genai, onnx, onnx-ir and
transformers. `make` quantises a checkpoint folder to symmetric int4 in groups of 32, all layers, by the runtime's own
tool. `serve` reads commands as JSON lines and answers each with one, as llama_peer.py does. Both runtimes want a
tokenizer beside the model; its words do not matter, token ids are fed in.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def ids_of(length: int, sequence: int = 0) -> list[int]:
    return [(7 * i + 13 * sequence) % 1000 + 3 for i in range(length)]


def main() -> None:
    action, runtime, *rest = sys.argv[1:]
    if action == "make":
        {"openvino": make_openvino, "onnxruntime": make_onnxruntime}[runtime](Path(rest[0]), Path(rest[1]))
        return
    options = json.loads(rest[1]) if len(rest) > 1 else {}
    peer = {"openvino": OpenVINO, "onnxruntime": ONNXRuntime}[runtime](rest[0], **options)
    print(json.dumps({"ready": True, "version": peer.version}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        kind = command.pop("run")
        print(json.dumps({"value": getattr(peer, kind)(**command)}), flush=True)


class Runtime:
    version: str

    def decode(self, batch: int, prompt: int, new: int) -> float:
        """Seconds of `new` steps of `batch` sequences after prompts of `prompt` tokens."""
        raise NotImplementedError

    def prefill(self, prompt: int) -> float:
        """Seconds until the first token after a prompt is known."""
        raise NotImplementedError

    def memory(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class OpenVINO(Runtime):
    """backend: SDPA (a stateful model) or PA (continuous batching over paged attention)."""

    def __init__(self, folder: str, threads: int = 2, backend: str = "SDPA") -> None:
        import openvino
        import openvino_genai

        self.version = f"OpenVINO GenAI {openvino_genai.__version__} ({backend})"
        self._genai, self._tensor = openvino_genai, openvino.Tensor
        self._prompts = 0
        self._pipeline = openvino_genai.LLMPipeline(
            folder, "CPU", INFERENCE_NUM_THREADS=threads, PERFORMANCE_HINT="LATENCY", ATTENTION_BACKEND=backend
        )

    def _generate(self, rows: list[list[int]], new: int) -> float:
        """Seconds of the whole call."""
        import numpy as np

        config = self._genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new, True, False
        ids = np.array(rows, dtype=np.int64)
        inputs = self._genai.TokenizedInputs(self._tensor(ids), self._tensor(np.ones_like(ids)))
        started = time.perf_counter()
        result = self._pipeline.generate(inputs, config)
        seconds = time.perf_counter() - started
        assert [len(tokens) for tokens in result.tokens] == [new] * len(rows)
        return seconds

    def decode(self, batch: int, prompt: int, new: int) -> float:
        rows = [ids_of(prompt, sequence) for sequence in range(batch)]
        return self._generate(rows, new + 1) - self._generate(rows, 1)

    def prefill(self, prompt: int) -> float:
        self._prompts += 1  # Another one each time: continuous batching remembers prompts.
        return self._generate([ids_of(prompt, self._prompts)], 1)


class ONNXRuntime(Runtime):
    def __init__(self, folder: str, threads: int = 2) -> None:
        import onnxruntime_genai

        self.version = f"ONNX Runtime GenAI {onnxruntime_genai.__version__}"
        path = Path(folder) / "genai_config.json"
        values = json.loads(path.read_text())
        values["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
        path.write_text(json.dumps(values))
        self._genai = onnxruntime_genai
        self._model = onnxruntime_genai.Model(folder)

    def _generator(self, batch: int, length: int) -> Any:
        params = self._genai.GeneratorParams(self._model)
        params.set_search_options(do_sample=False, min_length=length, max_length=length, batch_size=batch)
        return self._genai.Generator(self._model, params)

    def decode(self, batch: int, prompt: int, new: int) -> float:
        import numpy as np

        generator = self._generator(batch, prompt + new + 2)
        rows = [ids_of(prompt, sequence) for sequence in range(batch)]
        generator.append_tokens(np.array(rows, dtype=np.int32))
        generator.generate_next_token()
        started = time.perf_counter()
        for _ in range(new):
            generator.generate_next_token()
        return time.perf_counter() - started

    def prefill(self, prompt: int) -> float:
        import numpy as np

        generator = self._generator(1, prompt + 2)
        started = time.perf_counter()
        generator.append_tokens(np.array([ids_of(prompt)], dtype=np.int32))
        generator.generate_next_token()
        return time.perf_counter() - started


def write_tokenizer(folder: Path, vocabulary: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"t{index}": index for index in range(vocabulary)}
    inner = Tokenizer(models.WordLevel(words, unk_token="t0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="t0", bos_token="t1", eos_token="t2")
    tokenizer.save_pretrained(folder)
    return tokenizer


def vocabulary_of(checkpoint: Path) -> int:
    size: int = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    return size


def make_openvino(checkpoint: Path, out: Path) -> None:
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    scheme = OVWeightQuantizationConfig(bits=4, group_size=32, sym=True, ratio=1.0, all_layers=True)
    model = OVModelForCausalLM.from_pretrained(checkpoint, export=True, compile=False, quantization_config=scheme)
    model.save_pretrained(out)
    tokenizer = write_tokenizer(out / "tokenizer", vocabulary_of(checkpoint))
    for part, name in zip(
        convert_tokenizer(tokenizer, with_detokenizer=True), ("tokenizer", "detokenizer"), strict=True
    ):
        openvino.save_model(part, out / f"openvino_{name}.xml")


def make_onnxruntime(checkpoint: Path, out: Path) -> None:
    source = out / "source"
    source.mkdir(parents=True, exist_ok=True)
    for file in checkpoint.iterdir():
        (source / file.name).unlink(missing_ok=True)
        (source / file.name).symlink_to(file.resolve())
    write_tokenizer(source, vocabulary_of(checkpoint))
    # Accuracy level 4 is int8 activations, the fastest there is.
    extra = ["int4_block_size=32", "int4_accuracy_level=4", "int4_is_symmetric=true"]
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", str(source), "-o", str(out)]
    subprocess.run([*builder, "-p", "int4", "-e", "cpu", "--extra_options", *extra], check=True)
    shutil.rmtree(source)


if __name__ == "__main__":
    main()
