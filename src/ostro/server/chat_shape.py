"""Answers in the shape of `/v1/chat/completions`, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from ostro.core.request import Usage
from ostro.server.answering import Choice, Job, Shape
from ostro.server.generation import Piece
from ostro.server.logprobs import TokenTexts, chat_logprobs
from ostro.tokenizer.answers import CallArguments, CallStart, Reasoning, Text
from ostro.web.chat import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChunkChoice,
    Content,
    Delta,
    FunctionCall,
    TextChunk,
    ThinkChunk,
    ToolCall,
    ToolCallDelta,
)
from ostro.web.wire import UsageInfo


class ChatShape:
    """prefix: text that stands before each answer. chunks: reasoning is part of the content, as Mistral's API has
    it, instead of `reasoning_content` beside it."""

    def __init__(self, job: Job, *, prefix: str = "", chunks: bool = False) -> None:
        self.job = job
        self.prefix = prefix
        self.chunks = chunks
        self.texts = TokenTexts(job.model.tokenizer)

    def shape(self) -> Shape:
        return Shape(start=self.start, piece=self.piece, last=self.last, whole=self.whole)

    def start(self) -> Sequence[ChatChunk]:
        """The role comes first, in a chunk of its own for each choice; then the prefix, in one too."""
        deltas = [Delta(role="assistant", content="")]
        if self.prefix:
            deltas.append(Delta(content=self.prefix))
        indices = range(self.job.num_choices)
        return [self._chunk([ChunkChoice(index=index, delta=delta)]) for index in indices for delta in deltas]

    def piece(self, piece: Piece) -> ChatChunk:
        """A chunk with all that is new. Only a piece with parts of several kinds needs more than one choice entry,
        and one delta has a place for each kind."""
        choice = ChunkChoice(
            index=piece.index,
            delta=self._delta(piece),
            logprobs=chat_logprobs(self.texts, piece.logprobs),
            finish_reason=piece.finish_reason,
            token_ids=piece.token_ids if self.job.shows_token_ids else UNSET,
        )
        chunk = self._chunk([choice])
        # Siblings have one prompt, and so the same labels.
        return msgspec.structs.replace(chunk, labels=list(piece.labels)) if piece.labels and not piece.index else chunk

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
                    message=self._message(choice),
                    logprobs=chat_logprobs(self.texts, choice.logprobs),
                    finish_reason=choice.finish_reason,
                    token_ids=choice.token_ids if self.job.shows_token_ids else UNSET,
                )
                for choice in choices
            ],
            usage=UsageInfo.of(usage),
            labels=list(choices[0].labels) or UNSET,
        )

    def _delta(self, piece: Piece) -> Delta:
        match piece.parts:
            case [] if piece.finish_reason is None:
                return Delta(content="")
            case [Text(text)] if piece.finish_reason is None:
                return Delta(content=text)
        text = piece.text
        reasoning = "".join(part.text for part in piece.parts if isinstance(part, Reasoning))
        calls = list(self.call_deltas(piece))
        content: Content | UnsetType = self._content(text, reasoning) if text or (self.chunks and reasoning) else UNSET
        return Delta(
            content=content,
            reasoning_content=reasoning if reasoning and not self.chunks else UNSET,
            tool_calls=calls or UNSET,
        )

    def call_deltas(self, piece: Piece) -> Iterator[ToolCallDelta]:
        """What a piece adds to tool calls."""
        for part in piece.parts:
            match part:
                case CallStart(index, call_id, name):
                    yield ToolCallDelta(index=index, id=call_id, type="function", function=FunctionCall(name, ""))
                case CallArguments(index, text):
                    yield ToolCallDelta(index=index, function=FunctionCall("", text))

    def _message(self, choice: Choice) -> AnswerMessage:
        text = self.prefix + choice.text
        calls = [
            ToolCall(call.id, FunctionCall(call.name, call.arguments), index) for index, call in enumerate(choice.calls)
        ]
        content: Content | None = self._content(text, choice.reasoning)
        return AnswerMessage(
            content=None if calls and not content else content,
            reasoning_content=choice.reasoning if choice.reasoning and not self.chunks else UNSET,
            tool_calls=calls or UNSET,
        )

    def _content(self, text: str, reasoning: str) -> Content:
        if not (self.chunks and reasoning):
            return text
        thought = ThinkChunk([TextChunk(reasoning)])
        return [thought, TextChunk(text)] if text else [thought]

    def _chunk(self, choices: list[ChunkChoice], usage: UsageInfo | None = None) -> ChatChunk:
        return ChatChunk(
            id=self.job.id,
            created=self.job.created,
            model=self.job.model.name,
            choices=choices,
            usage=usage if self.job.body.include_usage else UNSET,
        )
