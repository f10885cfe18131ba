"""Items of `/v1/responses` as answers have them and as the store keeps them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ostro.web.chat import ChatLogprob

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputText(msgspec.Struct, frozen=True, tag_field="type", tag="input_text"):
    text: str


class InputImage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="input_image"):
    """image_url: a data URL or an address. detail: kept for whoever reads it; images have one size here."""

    image_url: str
    detail: str = "auto"


class InputAudio(msgspec.Struct, frozen=True, tag_field="type", tag="input_audio"):
    """input_audio: base64 as `data`, and its `format`."""

    input_audio: dict[str, str]


class OutputText(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="output_text"):
    """logprobs: empty unless they were asked for. annotations: always empty, nothing here cites."""

    text: str
    annotations: list[dict[str, Any]] = []
    logprobs: list[ChatLogprob] = []


class Refusal(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    """Only where a client sent one: models here refuse in plain text."""

    refusal: str


class ReasoningText(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    text: str


class SummaryText(msgspec.Struct, frozen=True, tag_field="type", tag="summary_text"):
    text: str


MessagePart = InputText | InputImage | InputAudio | OutputText | Refusal


class MessageItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    id: str
    status: ItemStatus = "completed"
    role: Literal["user", "assistant", "system", "developer"] = "assistant"
    content: list[MessagePart]


class ReasoningItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """What was thought, whole; nothing is summarised or encrypted."""

    id: str
    status: ItemStatus = "completed"
    summary: list[SummaryText] = []
    content: list[ReasoningText] = []
    encrypted_content: str | None = None


class FunctionCallItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    """arguments: JSON text."""

    id: str
    status: ItemStatus = "completed"
    call_id: str
    name: str
    arguments: str


class FunctionCallOutputItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call_output"):
    id: str
    status: ItemStatus = "completed"
    call_id: str
    output: str | list[InputText]


OutputItem = MessageItem | ReasoningItem | FunctionCallItem
Item = MessageItem | ReasoningItem | FunctionCallItem | FunctionCallOutputItem


class ItemList(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/responses/{id}/input_items`."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool
