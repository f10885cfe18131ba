"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from msgspec import UNSET

from ostro.core.ids import new_id
from ostro.core.request import Usage
from ostro.server.answering import Choice, Job, Shape, answer
from ostro.server.context import ServerContext, context_of
from ostro.server.generation import Piece
from ostro.server.logprobs import TokenTexts, chat_logprobs
from ostro.web.body import read_json
from ostro.web.chat import AnswerMessage, ChatChoice, ChatChunk, ChatCompletion, ChatRequest, ChunkChoice, Delta
from ostro.web.wire import UsageInfo

router = APIRouter(tags=["chat"])

_BODY = {"requestBody": {"content": {"application/json": {"schema": ChatRequest.model_json_schema()}}}}


@router.post("/v1/chat/completions", openapi_extra=_BODY)
async def chat_completions(request: Request, context: Annotated[ServerContext, Depends(context_of)]) -> Response:
    body = await read_json(request, ChatRequest)
    body.refuse_unsupported()
    params = body.params()
    model = context.models.find(body.model)
    model.ready_card()
    messages = body.plain_messages()
    prompt = await model.encode_chat(messages)
    # Mistral's API: the last message is the assistant's and is gone on with.
    continues = bool(messages[-1].get("prefix"))
    job = Job(model, body, params, [prompt], continues, new_id("chatcmpl"))
    return await answer(request, context, job, _ChatShape(job).shape())


class _ChatShape:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.texts = TokenTexts(job.model.tokenizer)

    def shape(self) -> Shape:
        return Shape(start=self.start, piece=self.piece, last=self.last, whole=self.whole)

    def start(self) -> Sequence[ChatChunk]:
        """The role comes first, in a chunk of its own for each choice."""
        delta = Delta(role="assistant", content="")
        return [self._chunk([ChunkChoice(index=i, delta=delta)]) for i in range(self.job.num_choices)]

    def piece(self, piece: Piece) -> ChatChunk:
        choice = ChunkChoice(
            index=piece.index,
            delta=Delta(content=piece.text) if piece.text or piece.finish_reason is None else Delta(),
            logprobs=chat_logprobs(self.texts, piece.logprobs),
            finish_reason=piece.finish_reason,
            token_ids=piece.token_ids if self.job.shows_token_ids else UNSET,
        )
        return self._chunk([choice])

    def last(self, usage: Usage) -> ChatChunk:
        return self._chunk([], UsageInfo.of(usage))

    def whole(self, choices: Sequence[Choice], usage: Usage) -> ChatCompletion:
        return ChatCompletion(
            id=self.job.id,
            created=self.job.created,
            model=self.job.model.name,
            choices=[
                ChatChoice(
                    index=choice.index,
                    message=AnswerMessage(choice.text),
                    logprobs=chat_logprobs(self.texts, choice.logprobs),
                    finish_reason=choice.finish_reason,
                    token_ids=choice.token_ids if self.job.shows_token_ids else UNSET,
                )
                for choice in choices
            ],
            usage=UsageInfo.of(usage),
        )

    def _chunk(self, choices: list[ChunkChoice], usage: UsageInfo | None = None) -> ChatChunk:
        return ChatChunk(
            id=self.job.id,
            created=self.job.created,
            model=self.job.model.name,
            choices=choices,
            usage=usage if self.job.body.include_usage else UNSET,
        )
