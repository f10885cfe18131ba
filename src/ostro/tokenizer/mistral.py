"""Tokenizers that mistral-common reads: tekken and SentencePiece, with the chat template of their version."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistral_common.exceptions import InvalidToolException, InvalidToolSchemaException, MistralCommonException
from mistral_common.protocol.fim.request import FIMRequest
from mistral_common.protocol.instruct.chunk import TextChunk, ThinkChunk
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.normalize import get_normalizer
from mistral_common.protocol.instruct.request import ChatCompletionRequest, ReasoningEffort
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool, ToolCall
from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy, TokenizerVersion
from mistral_common.tokens.tokenizers.instruct import (
    InstructTokenizerV1,
    InstructTokenizerV3,
    InstructTokenizerV7,
)
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

from ostro.core.errors import InvalidRequestError, TokenizerError
from ostro.core.media import MediaInput, Prompt
from ostro.tokenizer.base import Tokenizer, replace_surrogates
from ostro.tokenizer.conversation import read_messages
from ostro.tokenizer.media_tokens import MediaTokens, chunk_of
from ostro.tokenizer.message_content import READ_MEDIA
from ostro.tokenizer.placeholders import require_places
from ostro.tokenizer.tools import Function as ReadFunction
from ostro.tokenizer.tools import read_tools
from ostro.tokenizer.turns import Part, Role, Thought, Turn

if TYPE_CHECKING:
    from mistral_common.tokens.tokenizers.base import InstructTokenizer

_SPACE = "▁"  # U+2581, as SentencePiece writes a space
# How hard to think, from not at all to the most.
_EFFORTS = [effort.value for effort in ReasoningEffort]
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class MistralCommonTokenizer(Tokenizer):
    """A tokenizer whose template and encoding are mistral-common's; the bytes of a token are the file's."""

    def __init__(self, mistral: Any) -> None:
        super().__init__()
        inner = mistral.instruct_tokenizer.tokenizer
        self._mistral = mistral
        self._inner = inner
        self._special: frozenset[int] = frozenset(inner.special_ids)
        self._named = {str(inner.id_to_piece(token_id)): token_id for token_id in self._special}
        settings = getattr(inner, "model_settings_builder", None)
        efforts = None if settings is None else settings.reasoning_effort
        self._efforts: list[str] = [] if efforts is None else [str(effort) for effort in efforts.values]
        self._media = MediaTokens(self._named)
        instruct = mistral.instruct_tokenizer
        if mistral.version >= TokenizerVersion.v3 and (self._media.takes_images or self._media.takes_series):
            instruct.image_encoder = self._media.of_image
        if mistral.version >= TokenizerVersion.v7 and self._media.takes_sounds:
            instruct.audio_encoder = self._media.of_sound
        self.vocab_size = int(inner.n_words)
        self.bos_id = int(inner.bos_id)
        self.eos_ids = (int(inner.eos_id),)
        self.version = str(mistral.version.value)

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special

    def special_id(self, name: str) -> int | None:
        return self._named.get(name)

    @property
    def can_call_tools(self) -> bool:
        return self._mistral.version >= TokenizerVersion.v2 and super().can_call_tools

    @property
    def supports_reasoning_effort(self) -> bool:
        return bool(self._efforts)

    @property
    def placeholders(self) -> dict[str, int]:
        instruct = self._mistral.instruct_tokenizer
        pictures = instruct.image_encoder is not None
        takes = {
            "image": pictures and self._media.takes_images,
            "audio": instruct.audio_encoder is not None,
            "series": pictures and self._media.takes_series,
        }
        return {modality: token for modality, token in super().placeholders.items() if takes[modality]}

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        continue_final: bool = False,
        reasoning_effort: str | None = None,
    ) -> Prompt:
        functions = read_tools(tools)
        if functions and not self.can_call_tools:
            raise InvalidRequestError(
                f"This model's chat template ({self.version}) has no place for tools. Leave them out, or serve a model "
                "with a newer tokenizer.",
                param="tools",
                code="unsupported_parameter",
            )
        turns = read_messages(messages, continue_final=continue_final, thinkers=self._thinkers)
        require_places(turns, self.placeholders, self.version)
        effort = None if reasoning_effort is None else self._effort(reasoning_effort)
        try:
            request = ChatCompletionRequest(
                messages=[message for turn in turns for message in self._messages(turn)],
                tools=[_tool(function) for function in functions] or None,
                reasoning_effort=effort,
            )
            tokenized = self._mistral.encode_chat_completion(request)
        except (InvalidToolException, InvalidToolSchemaException) as error:
            raise InvalidRequestError(f"The tools cannot be used: {_reason(error)}", param="tools") from error
        except (MistralCommonException, ValueError, AssertionError, RecursionError) as error:
            raise InvalidRequestError(
                f"The chat template ({self.version}) cannot express these messages: {_reason(error)}", param="messages"
            ) from error
        # The template may put a message's image in front of its text: what it says of their order counts.
        media = [one for turn in turns for one in turn.media]
        found = self._media.find(tokenized.images, media)
        sounds = [one for one in media if one.modality == "audio"]
        return Prompt.placing(list(tokenized.tokens), found + sounds, self.placeholders)

    def render_transcription(self, media: MediaInput, language: str | None = None) -> Prompt:
        """As Voxtral was taught: the sound as a user's message, then the language, if it is known, and the marker."""
        marker = self.special_id("[TRANSCRIBE]")
        if marker is None or media.modality not in self.placeholders:
            return super().render_transcription(media, language)
        asked = self.render([{"role": "user", "content": [{"type": READ_MEDIA, "media": media}]}])
        told = [] if language is None else self._encode_text(f"lang:{language}")
        return Prompt([*asked.token_ids, *told, marker], asked.spans, asked.media)

    def encode_fim(self, prompt: str, suffix: str) -> list[int]:
        if not self.can_fill_in_middle:
            return super().encode_fim(prompt, suffix)
        request = FIMRequest(prompt=replace_surrogates(prompt), suffix=replace_surrogates(suffix) or None)
        try:
            return list(self._mistral.encode_fim(request).tokens)
        except (MistralCommonException, ValueError, AssertionError) as error:
            raise InvalidRequestError(
                f"The tokenizer ({self.version}) cannot fill in between these texts: {_reason(error)}", param="suffix"
            ) from error

    @property
    def _thinkers(self) -> tuple[Role, ...]:
        """Roles whose messages may hold thoughts; version 15 says how to think by its settings instead."""
        version = self._mistral.version
        if not self.can_reason or version < TokenizerVersion.v13:
            return ()
        return ("assistant",) if version.supports_model_settings else ("system", "assistant")

    def _effort(self, asked: str) -> ReasoningEffort:
        """The template's nearest setting to what was asked for, of two the higher.

        Raises InvalidRequestError for a word that is none.
        """
        if asked not in _EFFORTS:
            raise InvalidRequestError(
                f"reasoning_effort must be one of {', '.join(_EFFORTS)}, not {asked[:40]!r}.", param="reasoning_effort"
            )
        if not self._efforts:
            raise InvalidRequestError(
                f"This model's chat template ({self.version}) has no place for reasoning_effort. Leave it out.",
                param="reasoning_effort",
                code="unsupported_parameter",
            )
        wanted = _EFFORTS.index(asked)
        nearest = min(self._efforts, key=lambda effort: (abs(_EFFORTS.index(effort) - wanted), -_EFFORTS.index(effort)))
        return ReasoningEffort(nearest)

    def _messages(self, turn: Turn) -> list[Any]:
        """A turn as the library has it. Versions before 7 have no place for text beside calls; it is left out there,
        as their models were taught to call without a word."""
        if turn.role == "user":
            return [UserMessage(content=_content(turn.parts))]
        if turn.role == "system":
            return [SystemMessage(content=_content(turn.parts))]
        if turn.role == "tool":
            return [ToolMessage(content="".join(turn.texts), tool_call_id=turn.call_id, name=turn.name)]
        calls = [
            ToolCall(id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments)) for call in turn.calls
        ]
        content = _content(turn.parts) if any(turn.parts) else None
        if calls and not self._mistral.version >= TokenizerVersion.v7:
            content = None
        return [AssistantMessage(content=content, tool_calls=calls or None, prefix=turn.unfinished)]

    def _encode_text(self, text: str) -> list[int]:
        return list(self._inner.encode(text, bos=False, eos=False))


class TekkenTokenizer(MistralCommonTokenizer):
    """A `tekken.json`."""

    @classmethod
    def load(cls, path: Path) -> TekkenTokenizer:
        """Raises TokenizerError that names the file."""
        try:
            return cls(MistralTokenizer.from_file(path))
        except Exception as error:  # a bad file makes the library raise nearly anything
            raise _broken(path, "a tekken tokenizer", error) from error

    def encode_fim(self, prompt: str, suffix: str) -> list[int]:
        """In the library's order, but not by its way around SentencePiece's leading space: it cuts two tokens off a
        smiling face put in front, which only vocabularies of a certain size spell with two."""
        if not self.can_fill_in_middle:
            return super().encode_fim(prompt, suffix)
        after, before = self.special_id("[SUFFIX]"), self.special_id("[PREFIX]")
        assert after is not None
        assert before is not None
        assert self.bos_id is not None
        return [self.bos_id, after, *self.encode(suffix, bos=False), before, *self.encode(prompt, bos=False)]

    def _look_up_bytes(self, token_id: int) -> bytes:
        piece: bytes = self._inner.id_to_byte_piece(token_id, SpecialTokenPolicy.KEEP)
        return piece


class SentencePieceModel(MistralCommonTokenizer):
    """A SentencePiece model of any version."""

    def __init__(self, mistral: Any) -> None:
        super().__init__(mistral)
        self._unknown_id = int(self._inner.unk_id)
        self._unknown_text: str = self._inner.decode([self._unknown_id])

    @classmethod
    def load(cls, path: Path) -> SentencePieceModel:
        """The version is the one in the file's name, or what its control pieces tell where the name has none.

        Raises TokenizerError that names the file, or the control piece that its version needs and it has not.
        """
        try:
            mistral = MistralTokenizer.from_file(path) if path.suffix != ".model" else _of_unversioned(path)
        except Exception as error:  # a bad file makes the library raise nearly anything
            raise _broken(path, "a SentencePiece tokenizer", error) from error
        _refuse_wrong_version(path, mistral)
        return cls(mistral)

    def leading_bytes(self, token_id: int) -> bytes:
        piece = self.token_bytes(token_id)
        # Only a space that SentencePiece put there begins a longer piece; a byte token's space was written.
        return piece[1:] if piece[:1] == b" " and self._inner.id_to_piece(token_id).startswith(_SPACE) else piece

    def _look_up_bytes(self, token_id: int) -> bytes:
        if token_id == self._unknown_id:
            return self._unknown_text.encode()
        piece: str = self._inner.id_to_piece(token_id)
        if byte := _BYTE_PIECE.fullmatch(piece):
            return bytes.fromhex(byte[1])
        return (piece if self.is_special(token_id) else piece.replace(_SPACE, " ")).encode()


def _of_unversioned(path: Path) -> Any:
    """A bare `tokenizer.model`: older repositories hold v1, later ones v3 or v7 under the same name.

    v2 and v3 differ in how tools are written, not in pieces; the published files with a bare name are v3.
    """
    spm = SentencePieceTokenizer(path, tokenizer_version=TokenizerVersion.v1)
    version: TokenizerVersion
    instruct_type: type[InstructTokenizer[Any, Any, Any]]
    if spm.is_special("[SYSTEM_PROMPT]"):
        version, instruct_type = TokenizerVersion.v7, InstructTokenizerV7
    elif spm.is_special("[INST]"):
        version, instruct_type = TokenizerVersion.v3, InstructTokenizerV3
    else:
        version, instruct_type = TokenizerVersion.v1, InstructTokenizerV1
    instruct = instruct_type(SentencePieceTokenizer(path, tokenizer_version=version), None, None)
    return MistralTokenizer(instruct, get_validator(version, ValidationMode.test), get_normalizer(version))


def _refuse_wrong_version(path: Path, mistral: Any) -> None:
    spm: SentencePieceTokenizer = mistral.instruct_tokenizer.tokenizer
    needed = ["[INST]", "[/INST]"] if mistral.version >= TokenizerVersion.v2 else []
    needed += ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"] if mistral.version >= TokenizerVersion.v7 else []
    missing = [piece for piece in needed if not spm.is_special(piece)]
    if missing:
        raise TokenizerError(
            f"{path} is named as version {mistral.version.value} but has no control piece {missing[0]}. Download the "
            "file again, or rename it to the version that it really is."
        )


def _content(parts: Sequence[Part]) -> Any:
    """One text as it is, several, thoughts and media as chunks. A thought may stay open where the message does."""
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return [_chunk(part) for part in parts]


def _chunk(part: Part) -> Any:
    if isinstance(part, str):
        return TextChunk(text=part)
    if isinstance(part, Thought):
        return ThinkChunk(thinking=part.text, closed=part.closed)
    return chunk_of(part)


def _tool(function: ReadFunction) -> Tool:
    return Tool(
        function=Function(
            name=function.name,
            description=function.description,
            parameters=dict(function.parameters),
            strict=function.strict,
        )
    )


def _broken(path: Path, what: str, error: Exception) -> TokenizerError:
    return TokenizerError(
        f"{path} cannot be read as {what}: {_reason(error)}. Download it again from the checkpoint's repository; a "
        "file of a newer version needs a newer mistral-common."
    )


def _reason(error: Exception) -> str:
    """One line; mistral-common keeps its text in `message`, and assertions carry whole values."""
    text = error.message if isinstance(error, MistralCommonException) else str(error)
    line = " ".join(text.split()) or type(error).__name__
    return line.rstrip(".") if len(line) <= 300 else line[:300] + "…"
