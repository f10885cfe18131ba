"""`POST /v1/audio/transcriptions`: a sound in, what is said in it out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from ostro.core.errors import InvalidRequestError
from ostro.core.ids import new_id
from ostro.core.sampling import SamplingParams
from ostro.media.parts import MediaSource, decode_data_url
from ostro.server.answering import json_response, plain_reader, stream, submit, whole
from ostro.server.context import ServerContext, context_of
from ostro.server.mistral_shape import wants_mistral_stream
from ostro.server.models import ServedModel
from ostro.server.patience import patient
from ostro.server.transcription_shape import MistralTranscriptionShape, TranscriptionShape
from ostro.web.auth import owner_of
from ostro.web.disconnect import while_connected
from ostro.web.openapi import gives, takes_form
from ostro.web.transcriptions import Transcription, TranscriptionEvent, TranscriptionRequest
from ostro.web.upload import Form, read_form, refuse_foreign_pages

MAX_AUDIO_BYTES = 25 * 1024 * 1024  # as OpenAI has it
# Most bytes of a field, which may be a data URL: fields are decoded on the event loop.
_MAX_FIELD_BYTES = 1024 * 1024

ROUTE = ("POST", "/v1/audio/transcriptions")  # reads its own body, under MAX_AUDIO_BYTES

router = APIRouter(tags=["audio"])


@router.post(
    ROUTE[1],
    openapi_extra=takes_form(TranscriptionRequest),
    responses=gives(Transcription, streamed=TranscriptionEvent, plain=True),
)
async def transcriptions(request: Request, context: Annotated[ServerContext, Depends(context_of)]) -> Response:
    refuse_foreign_pages(request)
    data = bytearray()

    async def keep(piece: bytes) -> None:
        data.extend(piece)

    form = await read_form(request, keep, max_field_bytes=_MAX_FIELD_BYTES)
    body = TranscriptionRequest.of_form(form)
    body.refuse_unsupported()
    params = body.params()
    source = _source(form, body, bytes(data))
    _require_hearing(context.models.find(body.model))
    shape = MistralTranscriptionShape if wants_mistral_stream(request) else TranscriptionShape
    work = _answer(request, context, body, params, source, shape)
    return await patient(context, work, streamed=body.stream, headers=body.ignored_header(), failed=shape.failed)


async def _answer(
    request: Request,
    context: ServerContext,
    body: TranscriptionRequest,
    params: SamplingParams,
    source: MediaSource,
    kind: type[TranscriptionShape],
) -> Response:
    model = await context.models.use(request, body.model)
    room = model.ready_card().context
    sound = await while_connected(request, context.media.hear(source, model.senses, room))
    shape = kind(new_id("transcription"), model, body, sound)
    generation = submit(
        context,
        model,
        [await model.render_transcription(sound.media, body.spoken())],
        params,
        plain_reader(model, params),
        request_id=shape.id,
        owner=owner_of(request.scope),
        priority=body.priority or 0,
        timeout_s=body.timeout,
        param=source.where,
    )
    headers = body.ignored_header()
    if body.stream:
        return await stream(request, context, generation, shape.frames(generation), headers)
    answer = await whole(request, generation, shape.whole(generation))
    if body.response_format == "text":
        return Response(answer.text, headers=headers, media_type="text/plain")
    return json_response(answer, headers)


def _source(form: Form, body: TranscriptionRequest, data: bytes) -> MediaSource:
    """Where the sound is. Raises InvalidRequestError where there is none, or more than one."""
    where, place = "file_url", (0, 0)
    if form.filename is not None:
        if body.file_url is not None:
            raise InvalidRequestError("'file' and 'file_url' were given; send one sound.", param=where)
        return MediaSource(place, "file", "audio", data=data, declared=form.mimetype)
    if body.file_url is None:
        raise InvalidRequestError(
            "The form has no part 'file' with a filename, which is the sound.",
            param="file",
            code="missing_required_parameter",
        )
    if body.file_url[:5].lower() == "data:":
        held, declared = decode_data_url(body.file_url, where)
        return MediaSource(place, where, "audio", data=held, declared=declared)
    return MediaSource(place, where, "audio", url=body.file_url)


def _require_hearing(model: ServedModel) -> None:
    if model.senses.audio is None:
        raise InvalidRequestError(
            f"The model '{model.name}' does not hear. Ask one that does, such as Voxtral.",
            param="model",
            code="unsupported_content",
        )
