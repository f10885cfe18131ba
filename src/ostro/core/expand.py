"""From one prompt and its sampling parameters to the sequences an engine runs.

Shared by the offline face and the server, so that both give the same answer to the same request.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Sequence

import msgspec

from ostro.core.errors import InvalidRequestError, PromptTooLongError
from ostro.core.media import MediaInput, MediaSpan
from ostro.core.request import EngineRequest
from ostro.core.sampling import MAX_COUNT, SEED_BOUND, SamplingParams


def sibling_seed(seed: int, index: int) -> int:
    """The seed of completion `index` of a prompt: the first keeps the request's own.

    The others are a hash of both, so that neighbouring seeds do not share answers.

    >>> sibling_seed(7, 0)
    7
    >>> sibling_seed(7, 1) == sibling_seed(8, 0)
    False
    """
    if index == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % SEED_BOUND


def expand(
    request_id: str,
    prompt_token_ids: Sequence[int],
    params: SamplingParams,
    *,
    eos_ids: Collection[int],
    context: int,
    priority: int = 0,
    timeout_s: float | None = None,
    salt: str = "",
    spans: Sequence[MediaSpan] = (),
    media: Sequence[MediaInput] = (),
    inspect: bool = False,
) -> list[EngineRequest]:
    """`params.n` engine requests, with everything decided that an engine must not decide by itself.

    The seed is drawn where none is given, `max_tokens` is what the context still holds where it is None, and
    the stop tokens are the caller's plus `eos_ids` unless `ignore_eos`. A single request keeps `request_id`;
    siblings are `request_id-0`, `request_id-1`, … in the group `request_id`.
    `context` is the most tokens of prompt and answer together.
    Raises PromptTooLongError, and InvalidRequestError for an empty prompt or a deadline that is not positive.
    """
    _check_prompt(prompt_token_ids, params, context)
    if timeout_s is not None and not timeout_s > 0:
        raise InvalidRequestError(f"timeout must be above 0 seconds, not {timeout_s:g}.", param="timeout")
    tokens = list(prompt_token_ids)
    seed = secrets.randbelow(SEED_BOUND) if params.seed is None else params.seed
    stop_ids = set(params.stop_token_ids) | (set() if params.ignore_eos else set(eos_ids))
    one = msgspec.structs.replace(
        params,
        n=1,
        stop=(),
        max_tokens=context - len(tokens) if params.max_tokens is None else params.max_tokens,
    )
    return [
        EngineRequest(
            request_id=request_id if params.n == 1 else f"{request_id}-{index}",
            prompt_token_ids=tokens,
            params=one,
            seed=sibling_seed(seed, index),
            stop_token_ids=sorted(stop_ids),
            priority=priority,
            timeout_s=timeout_s,
            group=None if params.n == 1 else request_id,
            salt=salt,
            spans=list(spans),
            media=list(media),
            inspect=inspect,
        )
        for index in range(params.n)
    ]


def _check_prompt(tokens: Sequence[int], params: SamplingParams, context: int) -> None:
    if not tokens:
        raise InvalidRequestError("The prompt is empty; at least one token is needed.", param="prompt")
    for token in (min(tokens), max(tokens)):
        if not 0 <= token <= MAX_COUNT:
            raise InvalidRequestError(f"The prompt holds {token}, which is no token id.", param="prompt")
    if len(tokens) + (params.max_tokens or 1) > context:
        raise PromptTooLongError(len(tokens), params.max_tokens, context)
