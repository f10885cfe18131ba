"""`POST /v1/completions`: texts or token ids in, continuations out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from msgspec import UNSET

from ostro.core.errors import InvalidRequestError
from ostro.core.ids import new_id
from ostro.core.request import Usage
from ostro.server.answering import Choice, Job, Shape, answer
from ostro.server.context import ServerContext, context_of
from ostro.server.generation import Piece
from ostro.server.logprobs import TokenTexts, completion_logprobs
from ostro.server.models import ServedModel
from ostro.web.body import read_json
from ostro.web.completions import Completion, CompletionChoice, CompletionRequest, Prompt
from ostro.web.wire import UsageInfo

router = APIRouter(tags=["completions"])

_BODY = {"requestBody": {"content": {"application/json": {"schema": CompletionRequest.model_json_schema()}}}}


@router.post("/v1/completions", openapi_extra=_BODY)
async def completions(request: Request, context: Annotated[ServerContext, Depends(context_of)]) -> Response:
    body = await read_json(request, CompletionRequest)
    body.refuse_unsupported()
    params = body.params()
    model = context.models.find(body.model)
    model.ready_card()
    if params.stop and model.tokenizer is None:
        raise InvalidRequestError("Stop strings need a tokenizer; use stop_token_ids.", param="stop")
    prompts = body.prompts()
    encoded = await asyncio.gather(*(_encode(model, prompt) for prompt in prompts))
    job = Job(model, body, params, encoded, True, new_id("cmpl"))
    echoes = [_echo(model, prompt) for prompt in prompts] if body.echo else [""] * len(prompts)
    return await answer(request, context, job, _CompletionShape(job, echoes).shape())


async def _encode(model: ServedModel, prompt: Prompt) -> list[int]:
    return await model.encode(prompt) if isinstance(prompt, str) else prompt


def _echo(model: ServedModel, prompt: Prompt) -> str:
    """The prompt as text, to stand before its answers."""
    if isinstance(prompt, str):
        return prompt
    return "" if model.tokenizer is None else model.tokenizer.decode(prompt)


class _CompletionShape:
    """echoes: for each prompt, the text to put before its answers."""

    def __init__(self, job: Job, echoes: Sequence[str]) -> None:
        self.job = job
        self.texts = TokenTexts(job.model.tokenizer)
        self.echoes = [echo for echo in echoes for _ in range(job.params.n)]
        self.offsets = [len(echo) for echo in self.echoes]

    def shape(self) -> Shape:
        return Shape(start=self.start, piece=self.piece, last=self.last, whole=self.whole)

    def start(self) -> Sequence[Completion]:
        return [
            self._body([CompletionChoice(index=index, text=echo)]) for index, echo in enumerate(self.echoes) if echo
        ]

    def piece(self, piece: Piece) -> Completion:
        logprobs = completion_logprobs(self.texts, piece.logprobs, self.offsets[piece.index])
        if logprobs is not None:
            self.offsets[piece.index] += sum(map(len, logprobs.tokens))
        choice = CompletionChoice(
            index=piece.index,
            text=piece.text,
            logprobs=logprobs,
            finish_reason=piece.finish_reason,
            token_ids=piece.token_ids if self.job.shows_token_ids else UNSET,
        )
        return self._body([choice])

    def last(self, usage: Usage) -> Completion:
        return self._body([], UsageInfo.of(usage))

    def whole(self, choices: Sequence[Choice], usage: Usage) -> Completion:
        return Completion(
            id=self.job.id,
            created=self.job.created,
            model=self.job.model.name,
            choices=[
                CompletionChoice(
                    index=choice.index,
                    text=self.echoes[choice.index] + choice.text,
                    logprobs=completion_logprobs(self.texts, choice.logprobs, self.offsets[choice.index]),
                    finish_reason=choice.finish_reason,
                    token_ids=choice.token_ids if self.job.shows_token_ids else UNSET,
                )
                for choice in choices
            ],
            usage=UsageInfo.of(usage),
        )

    def _body(self, choices: list[CompletionChoice], usage: UsageInfo | None = None) -> Completion:
        return Completion(
            id=self.job.id,
            created=self.job.created,
            model=self.job.model.name,
            choices=choices,
            usage=usage if self.job.body.include_usage else UNSET,
        )
