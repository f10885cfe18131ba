"""Wire types of `/v1/embeddings`: OpenAI's request and Mistral's, which differ in a few names."""

from __future__ import annotations

from typing import Any, Literal, cast

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from ostro.core.errors import InvalidRequestError
from ostro.core.media import KINDS
from ostro.web.bounded import Ids, Many
from ostro.web.wire import MAX_PRIORITY, MAX_TIMEOUT_S, UsageInfo, WireRequest

MAX_INPUTS = 2048  # OpenAI's

Input = str | list[int] | dict[str, Any]


class EmbeddingPart(BaseModel):
    """An image, a sound, a series or a text as a part of a chat message has it, or short: `{"image": …}`,
    `{"audio": …}`, `{"series": [numbers]}`, `{"text": …}`."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: str | None = None
    text: str | None = None


class EmbeddingRequest(WireRequest):
    """input: a text, texts, token ids, lists of token ids, or a list that holds images and sounds too
    (`EmbeddingPart`), for models that sense them.

    dimensions, output_dimension: OpenAI's and Mistral's names for how many numbers of a vector to keep.
    output_dtype: Mistral's; vectors are floats here. pooling: the vector is the hidden state of the input's last
    token, or the mean of all.
    """

    input: str | Many[str] | Ids | Many[Ids] | Many[str | EmbeddingPart]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    output_dimension: int | None = Field(default=None, ge=1)
    output_dtype: Literal["float", "int8", "uint8", "binary", "ubinary"] | None = None
    pooling: Literal["last", "mean"] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    priority: int | None = Field(default=None, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    timeout: float | None = Field(default=None, gt=0, le=MAX_TIMEOUT_S)

    def inputs(self) -> list[tuple[str, Input]]:
        """The inputs one by one, each with the field that it came in. Raises InvalidRequestError naming the field."""
        listed = self._listed()
        if not listed:
            raise InvalidRequestError("The input is empty; give a text or token ids.", param="input")
        if len(listed) > MAX_INPUTS:
            raise InvalidRequestError(
                f"{len(listed)} inputs were sent; one request takes at most {MAX_INPUTS}.", param="input"
            )
        for field, one in listed:
            if not one:
                raise InvalidRequestError(f"{field} is empty; give a text or token ids.", param=field)
        return listed

    def width(self) -> tuple[str, int | None]:
        """How many numbers of a vector to keep, None for all, and the field that says so.

        Raises InvalidRequestError where both fields are given and differ, and for types that are no float.
        """
        if self.output_dtype not in (None, "float"):
            raise InvalidRequestError(
                f"Vectors are given as floats, not as {self.output_dtype}.",
                param="output_dtype",
                code="unsupported_parameter",
            )
        if self.output_dimension is None:
            return "dimensions", self.dimensions
        if self.dimensions not in (None, self.output_dimension):
            raise InvalidRequestError(
                f"dimensions={self.dimensions} and output_dimension={self.output_dimension} mean the same and differ.",
                param="output_dimension",
            )
        return "output_dimension", self.output_dimension

    def _listed(self) -> list[tuple[str, Input]]:
        if isinstance(self.input, str):
            return [("input", self.input)]
        token_ids = [one for one in self.input if isinstance(one, int)]
        if token_ids:
            return [("input", token_ids)]
        listed: list[tuple[str, Input]] = []
        for index, one in enumerate(self.input):
            listed.append((f"input[{index}]", _part(f"input[{index}]", one)))
        return listed


_SHORT = {"image": "image", "audio": "audio", "series": "input_series"}


def _part(field: str, one: object) -> Input:
    if not isinstance(one, EmbeddingPart):
        return cast("Input", one)
    part = one.model_dump(exclude_none=True)
    if part.get("type") in ("text", None) and "text" in part:
        return str(part["text"])
    if "type" not in part:
        part["type"] = next((kind for name, kind in _SHORT.items() if name in part), "text")
    if part["type"] not in KINDS:
        raise InvalidRequestError(f"{field} needs one of text, image, audio and series.", param=field)
    if "series" in part and part["type"] == "input_series":
        part["input_series"] = part.pop("series")
    return part


class EmbeddingItem(msgspec.Struct, frozen=True, kw_only=True):
    """embedding: floats, or their little-endian float32 bytes as base64 where that was asked for."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    """The vectors in the order of the inputs."""

    id: str
    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: UsageInfo
