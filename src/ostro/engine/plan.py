"""What the scheduler tells every runner about one step. Plain data: it crosses a socket as it is."""

from __future__ import annotations

from typing import Literal

import msgspec

from ostro.core.media import MediaInput, MediaSpan
from ostro.core.request import LabelScore, Routing, TokenLogprobs
from ostro.core.sampling import SamplingParams


class Admission(msgspec.Struct, frozen=True):
    """A sequence enters a slot: how to sample it, and its tokens so far (for penalties).

    pooling: nothing is sampled; the prompt becomes one vector.
    spans: the positions whose embeddings encoders make. inspect: how attention is routed is to be told.
    """

    slot: int
    params: SamplingParams
    seed: int
    stop_token_ids: list[int]
    tokens: list[int]
    num_prompt: int
    pooling: Literal["last", "mean"] | None = None
    spans: list[MediaSpan] = []
    inspect: bool = False


class PlanRow(msgspec.Struct, frozen=True):
    """Tokens of one sequence to run: token_ids at positions start, start + 1, …

    sample: how many of the last rows are sampled: 0 in the middle of a prompt, 1 + drafts when decoding.
    tables: per cache group, the whole block table where it changed since the slot's last step, else None.
    """

    slot: int
    start: int
    token_ids: list[int]
    sample: int
    tables: list[list[int]] | None


class BatchPlan(msgspec.Struct, frozen=True):
    """One step. Short rows (decoding) come before prefill chunks.

    encode: inputs that encoders begin with. forget: those whose outputs are not needed any more. encode_s: seconds that
    encoders work in this step, if they have something to do.
    """

    step: int
    admissions: list[Admission]
    rows: list[PlanRow]
    encode: list[MediaInput] = []
    forget: list[str] = []
    encode_s: float = 0.0

    @property
    def num_tokens(self) -> int:
        return sum(len(row.token_ids) for row in self.rows)


class RowResult(msgspec.Struct):
    """Tokens sampled for one row: accepted drafts and one more. Empty where nothing was sampled.

    complete: the answer's grammar allows nothing more. error: why the answer cannot go on;
    error_param: the sampling parameter that is to blame, if one is.
    prompt_logprobs, embedding, labels, routing: what was read off the prompt, with the row that completes it.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    complete: bool = False
    error: str = ""
    error_param: str | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    embedding: bytes | None = None
    labels: list[LabelScore] = []
    routing: Routing | None = None
