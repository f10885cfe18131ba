"""How the next token is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from ostro.core.errors import InvalidRequestError

MAX_N = 16
MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIAS = 1024
MAX_BANNED_TOKEN_IDS = 1024
SEED_BOUND = 2**63
# Counts and token ids stay within what every tensor and message type holds.
MAX_COUNT = 2**31 - 1


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sampling parameters of one request. Out-of-range values raise `InvalidRequestError` naming the field.

    Order of application: repetition, presence and frequency penalties, logit bias, temperature, then the
    filters top-k, top-p and min-p (a token must pass them all).

    max_tokens: most tokens to generate; None means as many as the context still holds.
    temperature: 0 is greedy.
    top_p: nucleus mass in (0, 1] (Holtzman et al. 2020, arXiv:1904.09751).
    top_k: keep the k most likely tokens; 0 keeps all.
    min_p: keep tokens at least min_p times as likely as the most likely one (arXiv:2407.01082).
    presence_penalty, frequency_penalty: OpenAI's, over generated tokens, in [-2, 2].
    repetition_penalty: over prompt and generated tokens (Keskar et al. 2019, arXiv:1909.05858); 1 is off.
    logit_bias: token id -> added to its logit, in [-100, 100].
    seed: the same seed, prompt and parameters give the same answer whatever else is in the batch.
    logprobs: None is off; k reports the chosen token's log-probability and the k best, of the model's raw
        distribution (before penalties and temperature), in nats.
    n: completions per prompt.
    stop: strings that end the answer and are not part of it. stop_token_ids: tokens that do.
    ignore_eos: go on after the end-of-sequence token.
    banned_token_ids: tokens that are never chosen.
    constraint: the grammar that the answer must match, as `ostro.core.constraints` makes them; None is free.
    prompt_logprobs: None is off; k reports the log-probability of each prompt token but the first, and the k best
        in its place, in nats.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = {}
    seed: int | None = None
    logprobs: int | None = None
    n: int = 1
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    banned_token_ids: Sequence[int] = ()
    constraint: str | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _check_int("max_tokens", self.max_tokens, 1, MAX_COUNT)
        _check_int("min_tokens", self.min_tokens, 0, MAX_COUNT)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequestError(
                f"min_tokens={self.min_tokens} is more than max_tokens={self.max_tokens}.", param="min_tokens"
            )
        _check_real("temperature", self.temperature, 0.0, 100.0)
        _check_real("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise InvalidRequestError("top_p must be above 0; for greedy use temperature=0.", param="top_p")
        _check_int("top_k", self.top_k, 0, MAX_COUNT)
        _check_real("min_p", self.min_p, 0.0, 1.0)
        _check_real("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_real("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_real("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        if self.seed is not None:
            _check_int("seed", self.seed, -SEED_BOUND, SEED_BOUND - 1)
        if self.logprobs is not None:
            _check_int("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if self.prompt_logprobs is not None:
            _check_int("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS)
        if not isinstance(self.constraint, str | None):
            raise InvalidRequestError(
                "constraint must be a grammar as ostro.core.constraints makes them, or None.", param="constraint"
            )
        _check_int("n", self.n, 1, MAX_N)
        self._check_stops()
        self._check_logit_bias()

    def _check_stops(self) -> None:
        if isinstance(self.stop, str):
            raise InvalidRequestError("stop must be a list of strings.", param="stop")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidRequestError(
                f"{len(self.stop)} stop strings were given; at most {MAX_STOP_STRINGS} are allowed.",
                param="stop",
            )
        for text in self.stop:
            if not isinstance(text, str) or not 0 < len(text) <= MAX_STOP_LENGTH:
                raise InvalidRequestError(
                    f"Each stop string must have 1 to {MAX_STOP_LENGTH} characters.", param="stop"
                )
        if len(self.stop_token_ids) > MAX_STOP_TOKEN_IDS:
            raise InvalidRequestError(
                f"At most {MAX_STOP_TOKEN_IDS} stop_token_ids are allowed.", param="stop_token_ids"
            )
        if len(self.banned_token_ids) > MAX_BANNED_TOKEN_IDS:
            raise InvalidRequestError(
                f"At most {MAX_BANNED_TOKEN_IDS} banned_token_ids are allowed.", param="banned_token_ids"
            )
        for field in ("stop_token_ids", "banned_token_ids"):
            for token in getattr(self, field):
                _check_int(field, token, 0, MAX_COUNT)

    def _check_logit_bias(self) -> None:
        if len(self.logit_bias) > MAX_LOGIT_BIAS:
            raise InvalidRequestError(f"logit_bias holds at most {MAX_LOGIT_BIAS} tokens.", param="logit_bias")
        for token, bias in self.logit_bias.items():
            _check_int("logit_bias", token, 0, MAX_COUNT)
            _check_real("logit_bias", bias, -100.0, 100.0)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def penalised(self) -> bool:
        """Whether the history of the sequence changes its logits."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0)


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequestError(f"{name} must be a whole number, not {value!r}.", param=name)
    if not low <= value <= high:
        bounds = f"at least {low}" if value < low and high == MAX_COUNT else f"between {low} and {high}"
        raise InvalidRequestError(f"{name} must be {bounds}, not {value}.", param=name)


def _check_real(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequestError(f"{name} must be a finite number, not {value!r}.", param=name)
    if not low <= value <= high:
        raise InvalidRequestError(f"{name} must be between {low:g} and {high:g}, not {value:g}.", param=name)
