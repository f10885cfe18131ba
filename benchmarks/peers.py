"""Both sides, loaded from the same checkpoint: this project's engine and transformers."""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import torch
import transformers

from benchmarks.report import cache_folder
from benchmarks.shapes import make_checkpoint
from ostro import LLM, SamplingParams


def load_ours(args: argparse.Namespace, **options: Any) -> LLM:
    return LLM(make_checkpoint(args.shape, cache_folder(args)), **options)


def load_peer(args: argparse.Namespace) -> Any:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = make_checkpoint(args.shape, cache_folder(args))
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def peer_generate(model: Any, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """Greedy `generate` on left-padded prompts with its KV cache: the way transformers batches."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return out[:, longest:].tolist()


def greedy(new_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True)


def random_prompt(length: int, seed: int) -> list[int]:
    return torch.randint(3, 32000, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
