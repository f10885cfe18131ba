"""How to load and run one model: torch-free, so that a server can send it to the process that does."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from ostro.core.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
# More than any machine has cores; the stacks of a million threads end a process.
MAX_THREADS = 1024
KVDType = Literal["auto", "float32", "bfloat16", "float16", "int8"]


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of one engine.

    model: a checkpoint folder. name: what it is served as.
    max_model_len: most tokens of a sequence; None means the model's own context, or less where the KV cache
        cannot hold it.
    quantize: a scheme such as "int4" or "int8-g64", in which dense weights are held; None leaves them as they are.
    kv_dtype: what the KV cache holds; "auto" is the type of the activations, and float16 on a CPU where weights are
        quantised. int8 has a scale a head and token.
    kv_memory: bytes for the KV cache; None sizes it for max_num_seqs sequences within a quarter of free memory.
    block_size: tokens in a KV block. max_num_seqs: sequences in a batch.
    max_batch_tokens: token budget of a step; prefill is cut into chunks to fit it.
    max_waiting: requests that may wait; one more is refused with QueueFullError.
    media_memory: bytes that images and sounds of requests, running and waiting, may take together before they are
        encoded; a request above it is refused with QueueFullError while there are others.
    prefix_caching: reuse KV blocks of equal prefixes.
    encoder_cache: bytes for what encoders made of images and sounds, kept for prompts that hold them again.
    slowdown: the factor by which the median time between tokens of running streams may grow while an image or a sound
        is encoded and prefilled.
    speculate: draft tokens proposed per step by prompt lookup; 0 is off.
    ageing_s: a waiting request gains one priority level in so many seconds.
    threads: CPU threads; None takes one a core (`core/cpus.py`).
    pin: with threads None, an engine's process keeps to the cores that it computes on.
    """

    model: str
    name: str = ""
    device: Device = "auto"
    dtype: DType = "auto"
    max_model_len: int | None = None
    quantize: str | None = None
    kv_dtype: KVDType = "auto"
    kv_memory: int | None = None
    block_size: int = 16
    max_num_seqs: int = 64
    max_batch_tokens: int = 1024
    max_waiting: int = 256
    media_memory: int = 2 * 1024 * 1024 * 1024
    prefix_caching: bool = True
    encoder_cache: int = 256 * 1024 * 1024
    slowdown: float = 2.0
    speculate: int = 0
    ageing_s: float = 10.0
    threads: int | None = None
    pin: bool = True

    def __post_init__(self) -> None:
        for field in ("block_size", "max_num_seqs", "max_batch_tokens", "max_waiting", "media_memory"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} must be at least 1, not {getattr(self, field)}.", param=field)
        if self.max_batch_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_batch_tokens={self.max_batch_tokens} is less than max_num_seqs={self.max_num_seqs}; "
                "a step must hold one token of every running sequence.",
                param="max_batch_tokens",
            )
        if self.encoder_cache < 0:
            raise ConfigError(
                f"encoder_cache must be 0 or more bytes, not {self.encoder_cache}.", param="encoder_cache"
            )
        if not 1.05 <= self.slowdown <= 1000:
            raise ConfigError(f"slowdown must be from 1.05 to 1000, not {self.slowdown:g}.", param="slowdown")
        if self.speculate < 0 or self.speculate > 16:
            raise ConfigError(f"speculate must be between 0 and 16, not {self.speculate}.", param="speculate")
        if self.threads is not None and not 1 <= self.threads <= MAX_THREADS:
            raise ConfigError(f"threads must be from 1 to {MAX_THREADS}, not {self.threads}.", param="threads")
        for field, allowed in (
            ("device", get_args(Device)),
            ("dtype", get_args(DType)),
            ("kv_dtype", get_args(KVDType)),
        ):
            if getattr(self, field) not in allowed:
                raise ConfigError(
                    f"{field} must be one of {', '.join(allowed)}, not {getattr(self, field)!r}.", param=field
                )
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ConfigError("max_model_len must be at least 2.", param="max_model_len")
        if self.ageing_s <= 0:
            raise ConfigError("ageing_s must be above 0.", param="ageing_s")
