"""Transcriptions as OpenAI's and Mistral's APIs have them, whole and streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from msgspec import UNSET, UnsetType

from ostro.core.request import TokenLogprobs
from ostro.media.audio import Sound
from ostro.server.answering import Choice, gather, stream_failure
from ostro.server.generation import Generation, Piece
from ostro.server.logprobs import TokenTexts, chat_logprobs
from ostro.server.models import ServedModel
from ostro.web.errors import error_chunk
from ostro.web.sse import DONE, sse_data, sse_event
from ostro.web.transcriptions import (
    MistralDone,
    MistralLanguage,
    MistralTextDelta,
    TextDelta,
    TextDone,
    Transcription,
    TranscriptionEvent,
    TranscriptionLogprob,
    TranscriptionRequest,
    TranscriptionSegment,
    TranscriptionUsage,
)


@dataclass(frozen=True)
class TranscriptionShape:
    """One transcription in OpenAI's shape. Mistral's clients read the whole answer, too; its events are other ones."""

    id: str
    model: ServedModel
    body: TranscriptionRequest
    sound: Sound

    async def whole(self, generation: Generation) -> Transcription:
        (choice,) = await gather(generation)
        verbose = self.body.response_format == "verbose_json"
        return Transcription(
            text=choice.text,
            model=self.model.name,
            language=self.body.spoken(),
            usage=self.usage(generation, verbose=verbose),
            task="transcribe" if verbose else UNSET,
            duration=self.sound.seconds if verbose else UNSET,
            segments=[self._segment(choice)] if verbose else UNSET,
            logprobs=self.logprobs(choice.logprobs),
        )

    async def frames(self, generation: Generation) -> AsyncIterator[bytes]:
        said = Choice(0)
        try:
            for event in self.start():
                yield self.frame(event)
            while (piece := await generation.next()) is not None:
                said.add(piece)
                if piece.text or piece.logprobs:
                    yield self.frame(self.piece(piece))
            yield self.frame(self.end(said, generation))
        except Exception as error:  # noqa: BLE001 - the status is long sent, so a stream can only say it in an event
            yield self.failed(error, self.id)
            return
        yield self.farewell

    # What follows differs by API.
    farewell = DONE

    def start(self) -> Iterator[TranscriptionEvent]:
        yield from ()

    def piece(self, piece: Piece) -> TranscriptionEvent:
        return TextDelta(piece.text, self.logprobs(piece.logprobs))

    def end(self, said: Choice, generation: Generation) -> TranscriptionEvent:
        return TextDone(text=said.text, usage=self.usage(generation), logprobs=self.logprobs(said.logprobs))

    def frame(self, event: TranscriptionEvent) -> bytes:
        return sse_data(event)

    @staticmethod
    def failed(error: Exception, answer_id: str = "a transcription that waited") -> bytes:
        """What ends a stream that went wrong."""
        return sse_data(error_chunk(stream_failure(error, answer_id))) + DONE

    def usage(self, generation: Generation, *, verbose: bool = False) -> TranscriptionUsage:
        return TranscriptionUsage.of(generation.usage(), self.sound.media.tokens, self.sound.seconds, verbose=verbose)

    def logprobs(self, entries: Sequence[TokenLogprobs] | None) -> list[TranscriptionLogprob] | UnsetType:
        written = chat_logprobs(TokenTexts(self.model.tokenizer), entries)
        if written is None:
            return UNSET
        return [TranscriptionLogprob(one.token, one.logprob, one.bytes) for one in written.content]

    def _segment(self, choice: Choice) -> TranscriptionSegment:
        return TranscriptionSegment(
            end=self.sound.seconds,
            text=choice.text,
            tokens=choice.token_ids,
            temperature=self.body.params().temperature,
        )


class MistralTranscriptionShape(TranscriptionShape):
    """Events have names, and none stands behind the last."""

    farewell = b""

    def start(self) -> Iterator[TranscriptionEvent]:
        language = self.body.spoken()
        if language is not None:
            yield MistralLanguage(language)

    def piece(self, piece: Piece) -> TranscriptionEvent:
        return MistralTextDelta(piece.text)

    def end(self, said: Choice, generation: Generation) -> TranscriptionEvent:
        return MistralDone(
            model=self.model.name, text=said.text, language=self.body.spoken(), usage=self.usage(generation)
        )

    def frame(self, event: TranscriptionEvent) -> bytes:
        return sse_event(str(event.__struct_config__.tag), event)

    @staticmethod
    def failed(error: Exception, answer_id: str = "a transcription that waited") -> bytes:
        return sse_event("error", error_chunk(stream_failure(error, answer_id)))
