"""`POST /v1/moderations` and `/v1/chat/moderations`: texts, and what conversations say last, judged by rules."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from fastapi import APIRouter, Request, Response

from ostro.core.errors import ModelNotFoundError
from ostro.core.ids import new_id
from ostro.server.moderation import MODEL, Judgement, judge
from ostro.web.body import read_json
from ostro.web.disconnect import while_connected
from ostro.web.moderations import ChatModerationRequest, Moderation, ModerationRequest, Moderations
from ostro.web.openapi import gives, takes

router = APIRouter(tags=["moderations"])


@router.post("/v1/moderations", openapi_extra=takes(ModerationRequest), responses=gives(Moderations))
async def moderations(request: Request) -> Response:
    body = await read_json(request, ModerationRequest)
    return await _answer(request, body, body.texts())


@router.post("/v1/chat/moderations", openapi_extra=takes(ChatModerationRequest), responses=gives(Moderations))
async def chat_moderations(request: Request) -> Response:
    body = await read_json(request, ChatModerationRequest)
    return await _answer(request, body, body.texts())


async def _answer(request: Request, body: ModerationRequest | ChatModerationRequest, texts: Sequence[str]) -> Response:
    _refuse_other_models(body.model)
    results = await while_connected(request, _judge_all(texts))
    answer = Moderations(id=new_id("modr"), model=MODEL, results=[_written(one) for one in results])
    return Response(msgspec.json.encode(answer), headers=body.ignored_header(), media_type="application/json")


async def _judge_all(texts: Sequence[str]) -> list[Judgement]:
    return [await judge(text) for text in texts]


def _refuse_other_models(name: str | None) -> None:
    """Clients ask for their vendor's moderation model by default; the answer says which one judged instead."""
    if name is not None and name != MODEL and "moderation" not in name:
        raise ModelNotFoundError(
            f"'{name[:80]}' does not moderate. Leave 'model' out, or ask for '{MODEL}', the rules.", param="model"
        )


def _written(judgement: Judgement) -> Moderation:
    return Moderation(
        flagged=judgement.flagged,
        categories=judgement.categories,
        category_scores=judgement.scores,
        category_applied_input_types={name: ["text"] for name in judgement.scores},
    )
