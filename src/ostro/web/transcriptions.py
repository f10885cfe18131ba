"""Wire types of `/v1/audio/transcriptions`: OpenAI's form and Mistral's in one, answers that both vendors' clients
read, and the events of both."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import ConfigDict, Field, ValidationError

from ostro.core.errors import InvalidRequestError
from ostro.core.request import Usage
from ostro.core.sampling import SamplingParams
from ostro.web.body import invalid_field
from ostro.web.upload import Form
from ostro.web.wire import MAX_PRIORITY, MAX_TIMEOUT_S, WireRequest

FORMATS = ("json", "text", "verbose_json")
# Formats of OpenAI's that say when something was said, or who said it.
_TIMED = ("srt", "vtt", "diarized_json")
# ISO 639-1, as mistral-common has it.
_CODES = """
    aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo
    es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg
    ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn
    no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv sw
    ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"""
LANGUAGES = frozenset(_CODES.split())
_WORDS_ONLY = "The model gives what is said, not when."


class TranscriptionRequest(WireRequest):
    """The fields of the form, beside the file.

    file_url: where the sound is, in place of a file. language: of the speech, ISO 639-1; left open where it is not
    given. max_tokens: of the answer. Without a temperature it is 0.
    """

    model_config = ConfigDict(strict=False)  # in a form every value is a text

    file_url: str | None = None
    file_id: str | None = None
    language: str | None = None
    response_format: Annotated[str, Field(json_schema_extra={"enum": [*FORMATS, *_TIMED]})] = "json"
    temperature: float | None = None
    stream: bool | None = None
    include: list[str] | None = None
    timestamp_granularities: list[str] | None = None
    diarize: bool | None = None
    max_tokens: int | None = None
    seed: int | None = None
    priority: int | None = Field(default=None, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    timeout: float | None = Field(default=None, gt=0, le=MAX_TIMEOUT_S)

    @classmethod
    def of_form(cls, form: Form) -> TranscriptionRequest:
        """Raises InvalidRequestError naming the field."""
        given: dict[str, Any] = {}
        for written, values in form.given.items():
            name = written.partition("[")[
                0
            ]  # lists are written with brackets by OpenAI's clients, without by Mistral's
            values = [value for value in values if value]
            if name in ("include", "timestamp_granularities"):
                given[name] = [*given.get(name, []), *values]
            elif values:
                if name in cls.model_fields and (name in given or len(values) > 1):
                    raise InvalidRequestError(f"The form has the field '{name}' more than once.", param=name)
                given[name] = values[-1]
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise invalid_field(error) from None

    @property
    def wants_logprobs(self) -> bool:
        return "logprobs" in (self.include or ())

    def refuse_unsupported(self) -> None:
        """Raises InvalidRequestError, naming the field, for what the answer could not be."""
        super().refuse_unsupported()
        if self.response_format not in FORMATS:
            timed = self.response_format in _TIMED
            why = f"{_WORDS_ONLY} Ask for" if timed else "Known are"
            raise InvalidRequestError(
                f"response_format '{self.response_format[:40]}' is not supported. {why} {', '.join(FORMATS)}.",
                param="response_format",
                code="unsupported_parameter" if timed else "invalid_value",
            )
        if self.stream and self.response_format == "verbose_json":
            raise InvalidRequestError(
                "A stream has events of its own, so response_format cannot be verbose_json there.",
                param="response_format",
            )
        if self.timestamp_granularities:
            raise _unsupported("timestamp_granularities", _WORDS_ONLY)
        if self.diarize:
            raise _unsupported("diarize", "The model gives what is said, not by whom.")
        if self.file_id is not None:
            raise _unsupported("file_id", "Uploaded files are for batches; send the sound as 'file'.")
        self._check_include()
        if self.language is not None and self.language.lower() not in LANGUAGES:
            raise InvalidRequestError(
                f"language must be a code of two letters by ISO 639-1 such as 'en', not {self.language[:40]!r}.",
                param="language",
            )

    def spoken(self) -> str | None:
        """The language that was told, as templates want it."""
        return None if self.language is None else self.language.lower()

    def params(self) -> SamplingParams:
        """Raises InvalidRequestError naming the field."""
        return SamplingParams(
            temperature=self.temperature or 0.0,
            max_tokens=self.max_tokens,
            seed=self.seed,
            logprobs=0 if self.wants_logprobs else None,
        )

    def _check_include(self) -> None:
        unknown = next((name for name in self.include or () if name != "logprobs"), None)
        if unknown is not None:
            raise InvalidRequestError(f"include may hold 'logprobs', not {unknown[:40]!r}.", param="include")
        if self.wants_logprobs and self.response_format != "json":
            raise InvalidRequestError("include=logprobs needs response_format json.", param="include")


def _unsupported(name: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{name}' is not supported. {why}", param=name, code="unsupported_parameter")


class InputTokenDetails(msgspec.Struct, frozen=True):
    audio_tokens: int
    text_tokens: int


class TranscriptionUsage(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's usage by tokens, in verbose answers by `seconds`; beside it Mistral's, which counts whole seconds."""

    type: Literal["tokens", "duration"]
    input_tokens: int
    input_token_details: InputTokenDetails
    output_tokens: int
    total_tokens: int
    prompt_tokens: int
    completion_tokens: int
    prompt_audio_seconds: int
    seconds: float | UnsetType = UNSET

    @classmethod
    def of(cls, usage: Usage, audio_tokens: int, seconds: float, *, verbose: bool = False) -> TranscriptionUsage:
        """audio_tokens: of the prompt's tokens, those that stand for sound. seconds: how long that is."""
        return cls(
            type="duration" if verbose else "tokens",
            input_tokens=usage.prompt_tokens,
            input_token_details=InputTokenDetails(audio_tokens, usage.prompt_tokens - audio_tokens),
            output_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            prompt_audio_seconds=math.ceil(seconds),
            seconds=seconds if verbose else UNSET,
        )


class TranscriptionLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None


class TranscriptionSegment(msgspec.Struct, frozen=True, kw_only=True):
    """start and end: in seconds. OpenAI's have more, which is measured on pieces of known times."""

    id: int = 0
    seek: int = 0
    start: float = 0.0
    end: float
    text: str
    tokens: list[int]
    temperature: float


class Transcription(msgspec.Struct, frozen=True, kw_only=True):
    """language: what the request told; it is not guessed. task, duration (in seconds) and segments: with verbose_json;
    all that is said is one segment. logprobs: where they were asked for."""

    text: str
    model: str
    language: str | None
    usage: TranscriptionUsage
    task: Literal["transcribe"] | UnsetType = UNSET
    duration: float | UnsetType = UNSET
    segments: list[TranscriptionSegment] | UnsetType = UNSET
    logprobs: list[TranscriptionLogprob] | UnsetType = UNSET


class TextDelta(msgspec.Struct, frozen=True, tag_field="type", tag="transcript.text.delta"):
    """OpenAI's."""

    delta: str
    logprobs: list[TranscriptionLogprob] | UnsetType = UNSET


class TextDone(msgspec.Struct, frozen=True, tag_field="type", tag="transcript.text.done", kw_only=True):
    """OpenAI's, with all of the text."""

    text: str
    usage: TranscriptionUsage
    logprobs: list[TranscriptionLogprob] | UnsetType = UNSET


class MistralLanguage(msgspec.Struct, frozen=True, tag_field="type", tag="transcription.language"):
    """Mistral's, first where the language is known."""

    audio_language: str


class MistralTextDelta(msgspec.Struct, frozen=True, tag_field="type", tag="transcription.text.delta"):
    text: str


class MistralDone(msgspec.Struct, frozen=True, tag_field="type", tag="transcription.done", kw_only=True):
    """Mistral's, with all of the text."""

    model: str
    text: str
    language: str | None
    usage: TranscriptionUsage


TranscriptionEvent = TextDelta | TextDone | MistralLanguage | MistralTextDelta | MistralDone
