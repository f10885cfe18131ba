"""Wire types of `/v1/infer`: one input, one answer, as `Client.infer` sends and reads them."""

from __future__ import annotations

from typing import Any

import msgspec

from ostro.core.errors import InvalidRequestError
from ostro.core.sampling import SamplingParams
from ostro.web.wire import GenerationRequest, UsageInfo


class InferRequest(GenerationRequest):
    """inputs: `{"text": …}`. The sampling fields are those of chat; temperature is 0 unless it is given.

    There is one answer, and it comes whole.
    """

    inputs: dict[str, Any]

    def text(self) -> str:
        """Raises InvalidRequestError naming the input that is missing or that no model here takes."""
        for name in self.inputs:
            if name != "text":
                raise InvalidRequestError(
                    f"inputs['{name[:40]}'] was given, but this model takes text only.", param=f"inputs.{name[:40]}"
                )
        text = self.inputs.get("text")
        if not isinstance(text, str) or not text:
            raise InvalidRequestError("inputs needs a non-empty 'text'.", param="inputs.text")
        return text

    def ignored(self) -> list[str]:
        """Known fields that ask for what there is no place for."""
        return ["return_token_ids"] if self.return_token_ids else []

    def params(self) -> SamplingParams:
        """Raises InvalidRequestError naming the field."""
        if self.stream:
            raise InvalidRequestError(
                "/v1/infer answers whole; leave 'stream' out, or use /v1/chat/completions.", param="stream"
            )
        if self.n not in (None, 1):
            raise InvalidRequestError("/v1/infer gives one answer; n must be 1.", param="n")
        if self.temperature is None:
            self.temperature = 0.0
        return self.sampling(max_tokens=self.max_tokens, logprobs=None)


class Inference(msgspec.Struct, frozen=True, kw_only=True):
    """labels: for models that find any. cost: None where a node has no prices."""

    id: str
    model: str
    text: str
    labels: list[str]
    finish_reason: str
    usage: UsageInfo
    cost: float | None
