"""Reads a checkpoint's JSON config strictly: a key that nobody asked for is an error, not a surprise later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ostro.core.errors import ConfigError
from ostro.models.config import QueryScaling, YarnConfig

# Keys that say nothing about the forward pass: bookkeeping, training-time and generation-time settings.
HARMLESS = frozenset(
    [
        "_name_or_path",
        "architectures",
        "auto_map",
        "attention_dropout",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "is_composition",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "unk_token_id",
        "use_cache",
        "_attn_implementation_autoset",
        "pretraining_tp",
        "vision_token_id",
        "image_token_id",
        "add_cross_attention",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "finetuning_task",
        "is_decoder",
        "prefix",
        "sep_token_id",
        "task_specific_params",
        "tie_encoder_decoder",
        "torchscript",
    ]
)

MAX_LAYERS = 10_000
_MISSING = object()


class ConfigReader:
    """Takes known keys out of a JSON object; `finish` refuses what is left."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = dict(values)
        self._where = where

    def integer(self, key: str, default: Any = _MISSING, *, most: int = 2**31 - 1) -> int:
        """A size or a count: from 1 to `most`."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ConfigError(
                f"{self._where}: '{key}' must be a whole number from 1 to {most}, not {value!r}.", param=key
            )
        return value

    def text(self, key: str, default: Any = _MISSING) -> str:
        value = self._take(key, default)
        if not isinstance(value, str):
            raise ConfigError(f"{self._where}: '{key}' must be a string, not {value!r}.", param=key)
        return value

    def real(self, key: str, default: Any = _MISSING) -> float:
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{self._where}: '{key}' must be a number, not {value!r}.", param=key)
        return float(value)

    def optional_real(self, key: str) -> float | None:
        """The number, or None where it is absent or null."""
        return None if self._values.get(key) is None else self.real(key)

    def window(self, key: str = "sliding_window") -> int:
        """A sliding window; 0 where it is absent or null."""
        return check_window(self.optional(key), self._where)

    def flag(self, key: str) -> bool | None:
        """True or false, or None where it is absent or null."""
        value = self._values.pop(key, None)
        if value is not None and not isinstance(value, bool):
            raise ConfigError(f"{self._where}: '{key}' must be true or false, not {value!r}.", param=key)
        return value

    def section(self, key: str) -> Mapping[str, Any] | None:
        """A JSON object inside this one, or None where it is absent or null."""
        value = self._values.pop(key, None)
        if value is not None and not isinstance(value, Mapping):
            raise ConfigError(f"{self._where}: '{key}' must be a JSON object, not {value!r}.", param=key)
        return value

    def words(self, key: str) -> list[str] | None:
        """A list of strings, or None where it is absent or null."""
        value = self._values.pop(key, None)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise ConfigError(f"{self._where}: '{key}' must be a list of strings, not {value!r}.", param=key)
        return value

    def optional(self, key: str) -> Any:
        """The value, or None where it is absent or null."""
        return self._values.pop(key, None)

    def expect(self, key: str, *allowed: object) -> None:
        """Refuse the key unless it is absent or one of `allowed`: no kernel here does anything else."""
        value = self._values.pop(key, allowed[0])
        if value not in allowed:
            wanted = " or ".join(repr(item) for item in allowed)
            raise ConfigError(
                f"{self._where}: '{key}' is {value!r}; this architecture is supported with {wanted} only.",
                param=key,
            )

    def ignore(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._values.pop(key, None)

    def finish(self) -> None:
        left = sorted(set(self._values) - HARMLESS)
        if left:
            raise ConfigError(
                f"{self._where}: unknown key{'s' if len(left) > 1 else ''} {', '.join(map(repr, left))}. The model may "
                "need something this version does not do; remove the key if it is not part of the model.",
                param=left[0],
            )

    def _take(self, key: str, default: Any) -> Any:
        value = self._values.pop(key, None)
        if value is None:
            if default is _MISSING:
                raise ConfigError(f"{self._where}: the required key '{key}' is missing.", param=key)
            return default
        return value


def check_window(value: object, where: str) -> int:
    """A sliding window as JSON gives it: null (0 here) or a positive whole number."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(
            f"{where}: 'sliding_window' must be null or a positive whole number, not {value!r}.", param="sliding_window"
        )
    return value


def read_rope(reader: ConfigReader, default_theta: float) -> tuple[float, YarnConfig | None, QueryScaling | None]:
    """Read `rope_theta` and `rope_scaling` of older HF configs, or `rope_parameters` of newer ones."""
    theta = reader.real("rope_theta", default_theta)
    scaling = reader.section("rope_scaling")
    parameters = reader.section("rope_parameters") or scaling
    if not parameters:
        return theta, None, None
    rope = ConfigReader(parameters, "rope_parameters")
    theta = rope.real("rope_theta", theta)
    kind = rope.optional("rope_type") or rope.optional("type") or "default"
    rope.ignore(("type", "max_position_embeddings"))
    if kind == "default":
        rope.ignore(("original_max_position_embeddings",))
        rope.finish()
        return theta, None, None
    if kind != "yarn":
        raise ConfigError(
            f"rope_parameters: type {kind!r} is not supported; 'default' and 'yarn' are.", param="rope_type"
        )
    original = rope.integer("original_max_position_embeddings")
    beta = rope.optional_real("llama_4_scaling_beta")
    yarn = YarnConfig(
        factor=rope.real("factor"),
        original_max_position_embeddings=original,
        beta_fast=rope.real("beta_fast", 32.0),
        beta_slow=rope.real("beta_slow", 1.0),
        mscale=rope.optional_real("mscale"),
        mscale_all_dim=rope.optional_real("mscale_all_dim"),
        attention_factor=rope.optional_real("attention_factor"),
        truncate=rope.flag("truncate") is not False,
    )
    rope.finish()
    return theta, yarn, QueryScaling(beta, original) if beta else None


def read_eos(values: Mapping[str, Any]) -> tuple[int, ...]:
    """`eos_token_id` as a tuple: absent, one id or a list."""
    eos = values.get("eos_token_id")
    if eos is None:
        return ()
    ids = tuple(eos) if isinstance(eos, list) else (eos,)
    if any(type(token) is not int for token in ids):
        raise ConfigError(f"'eos_token_id' must be a token id or a list of them, not {eos!r}.", param="eos_token_id")
    return ids


def read_dtype(values: Mapping[str, Any]) -> str | None:
    dtype = values.get("dtype") or values.get("torch_dtype")
    return str(dtype).removeprefix("torch.") if dtype else None
