"""`POST /tokenize` and `/detokenize`: what a model's tokenizer makes of a text, a conversation or token ids.

Neither loads a model: a tokenizer is there without it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from ostro.core.errors import InvalidRequestError
from ostro.server.context import ServerContext, context_of
from ostro.server.models import ServedModel
from ostro.server.served import off_loop
from ostro.tokenizer.base import Tokenizer
from ostro.web.body import read_json
from ostro.web.disconnect import while_connected
from ostro.web.openapi import gives, takes
from ostro.web.tokens import Detokenized, DetokenizeRequest, TokenizeRequest, Tokens

router = APIRouter(tags=["tokens"])


@router.post("/tokenize", openapi_extra=takes(TokenizeRequest), responses=gives(Tokens))
@router.post("/v1/tokenize", openapi_extra=takes(TokenizeRequest), responses=gives(Tokens))
async def tokenize(request: Request, context: Annotated[ServerContext, Depends(context_of)]) -> Response:
    body = await read_json(request, TokenizeRequest)
    body.check()
    model = context.models.find(body.model)
    ignored: list[str] = []
    if body.prompt is not None:
        ids = await model.encode(body.prompt, bos=body.add_special_tokens is not False)
    else:
        ids = await _render(request, context, model, body, ignored)
    tokenizer = model.text_tokenizer("prompt")
    card = model.engine.card
    strings = await off_loop(lambda: _strings(tokenizer, ids), len(ids)) if body.return_token_strs else None
    answer = Tokens(
        tokens=ids, count=len(ids), max_model_len=None if card is None else card.context, token_strs=strings
    )
    return _json(answer, body.ignored_header(*ignored))


@router.post("/detokenize", openapi_extra=takes(DetokenizeRequest), responses=gives(Detokenized))
@router.post("/v1/detokenize", openapi_extra=takes(DetokenizeRequest), responses=gives(Detokenized))
async def detokenize(request: Request, context: Annotated[ServerContext, Depends(context_of)]) -> Response:
    body = await read_json(request, DetokenizeRequest)
    model = context.models.find(body.model)
    tokenizer = model.text_tokenizer("tokens")
    for index, token in enumerate(body.tokens):
        if not 0 <= token < tokenizer.vocab_size:
            raise InvalidRequestError(
                f"tokens[{index}] is no token of this vocabulary of {tokenizer.vocab_size}.", param=f"tokens[{index}]"
            )
    skip = body.skip_special_tokens is not False
    text = await off_loop(lambda: tokenizer.decode(body.tokens, skip_special=skip), len(body.tokens))
    return _json(Detokenized(text), body.ignored_header())


async def _render(
    request: Request, context: ServerContext, model: ServedModel, body: TokenizeRequest, ignored: list[str]
) -> list[int]:
    """Token ids of the body's conversation; names of fields that the model has no place for go to `ignored`."""
    assert body.messages is not None
    options: dict[str, Any] = {}
    if body.tools:
        options["tools"] = body.tools
    if body.continue_final_message:
        options["continue_final"] = True
    if body.reasoning_effort is not None:
        if model.tokenizer is not None and model.tokenizer.supports_reasoning_effort:
            options["reasoning_effort"] = body.reasoning_effort
        else:
            ignored.append("reasoning_effort")
    messages = [message.plain(index) for index, message in enumerate(body.messages)]
    card = model.engine.card
    reading = context.media.read(messages, model.senses, None if card is None else card.context)
    read = await while_connected(request, reading)
    return (await model.render(read, **options)).token_ids


def _strings(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """What each token is by itself; bytes that are only part of a character become U+FFFD."""
    return [tokenizer.token_bytes(token).decode("utf-8", "replace") for token in ids]


def _json(answer: Any, headers: dict[str, str]) -> Response:
    return Response(msgspec.json.encode(answer), headers=headers, media_type="application/json")
