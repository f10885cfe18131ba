"""An answer of `/v1/responses` as it grows. Whole answers are written by the same steps as streams, so that both are
the same answer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ostro.core.errors import InvalidRequestError, OstroError, QueueFullError
from ostro.core.request import TokenLogprobs, Usage
from ostro.server.generation import Piece
from ostro.server.logprobs import TokenTexts, chat_logprobs
from ostro.server.responses.ids import item_id
from ostro.server.responses.open_items import OpenCall, OpenItem, OpenMessage, OpenReasoning
from ostro.tokenizer.answers import CallArguments, CallStart, Reasoning, Text
from ostro.tokenizer.base import Tokenizer
from ostro.web.chat import ChatLogprob
from ostro.web.openapi import ErrorFields
from ostro.web.response_events import (
    Event,
    ResponseCompleted,
    ResponseCreated,
    ResponseFailed,
    ResponseIncomplete,
    ResponseInProgress,
    StreamError,
)
from ostro.web.response_items import ItemStatus, OutputItem
from ostro.web.response_object import IncompleteDetails, ResponseError, ResponseObject, ResponseUsage


class ResponseWriter:
    """Takes pieces, gives events. `response` is the answer as it stands, final after `end`.

    tokenizer: None names tokens by their ids in log-probabilities.
    """

    def __init__(self, response: ResponseObject, tokenizer: Tokenizer | None) -> None:
        self.response = response
        self._texts = TokenTexts(tokenizer)
        self._said = _SaidTokens(tokenizer)
        self._numbers = itertools.count()
        self._done: list[OutputItem] = []
        self._open: OpenItem | None = None
        self._reason = "stop"

    def begin(self) -> list[Event]:
        return [self._numbered(kind, response=self.response) for kind in (ResponseCreated, ResponseInProgress)]

    def add(self, piece: Piece) -> list[Event]:
        """The events of what is new; none where all of it is held back or has no place in an answer."""
        logprobs = chat_logprobs(self._texts, self._said.of(piece))
        entries = [] if logprobs is None else logprobs.content
        self._reason = piece.finish_reason or self._reason
        last_text = next((part for part in reversed(piece.parts) if isinstance(part, Text)), None)
        events: list[Event] = []
        for part in piece.parts:
            match part:
                case Text(text):
                    events += self._text(text, entries if part is last_text else [])
                case Reasoning(text):
                    events += self._reasoning(text)
                case CallStart(_, call_id, name):
                    events += self._begin(OpenCall(*self._place(OpenCall), call_id, name))
                case CallArguments(_, text):
                    assert isinstance(self._open, OpenCall), "arguments follow their call"
                    events.append(self._open.more(text))
        return events

    def end(self, usage: Usage) -> list[Event]:
        """Close what is open and make the answer final. The last event has it whole."""
        cut = self._reason == "length"
        events: list[Event] = []
        if self._open is None and not self._done and not cut:
            events += self._text("", [])  # an answer that says nothing says so in a message
        events += self._close("incomplete" if cut else "completed")
        self.response = msgspec.structs.replace(
            self.response,
            status="incomplete" if cut else "completed",
            completed_at=None if cut else int(time.time()),
            incomplete_details=IncompleteDetails("max_output_tokens") if cut else None,
            output=self._done,
            usage=ResponseUsage.of(usage),
        )
        last = ResponseIncomplete if cut else ResponseCompleted
        return [*events, self._numbered(last, response=self.response)]

    def fail(self, error: OstroError) -> list[Event]:
        """What ends a stream in place of `end`."""
        self.response = msgspec.structs.replace(
            self.response,
            status="failed",
            completed_at=None,
            incomplete_details=None,
            error=ResponseError(_failure(error), error.message),
            output=self._done,
        )
        fields = ErrorFields(error.message, error.type, error.param, error.code)
        said = {"code": error.code, "message": error.message, "param": error.param, "error": fields}
        return [self._numbered(StreamError, **said), self._numbered(ResponseFailed, response=self.response)]

    def _text(self, text: str, logprobs: list[ChatLogprob]) -> Iterator[Event]:
        if not isinstance(self._open, OpenMessage):
            yield from self._begin(OpenMessage(*self._place(OpenMessage)))
        assert isinstance(self._open, OpenMessage)
        if text:
            yield self._open.more(text, logprobs)

    def _reasoning(self, text: str) -> Iterator[Event]:
        if not isinstance(self._open, OpenReasoning):
            yield from self._begin(OpenReasoning(*self._place(OpenReasoning)))
        assert isinstance(self._open, OpenReasoning)
        yield self._open.more(text)

    def _begin(self, item: OpenItem) -> Iterator[Event]:
        yield from self._close("completed")
        self._open = item
        yield from item.opened()

    def _close(self, status: ItemStatus) -> Iterator[Event]:
        if self._open is not None:
            yield from self._open.closed(status)
            self._done.append(self._open.item(status))
            self._open = None

    def _place(self, kind: type[OpenItem]) -> tuple[str, int, Any]:
        """What the next item is called, where it stands, and how its events are made."""
        index = len(self._done) + (self._open is not None)
        return item_id(self.response.id, kind.kind, index), index, self._numbered

    def _numbered(self, kind: type[Event], **fields: Any) -> Event:
        return kind(sequence_number=next(self._numbers), **fields)


class _SaidTokens:
    """Picks the log-probabilities of tokens that are text from those of all tokens.

    Thoughts and calls stand between control tokens. A thought that is marked by text is told by its piece having
    reasoning alone, so of a piece that ends one, the tokens before the end may come along.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._silent = False
        self._waiting: list[TokenLogprobs] = []

    def of(self, piece: Piece) -> list[TokenLogprobs] | None:
        """Those that belong to the piece's text, and to what was held back before it."""
        if piece.logprobs is None:
            return None
        self._waiting += (entry for entry in piece.logprobs if self._is_said(entry.token_id))
        if not any(isinstance(part, Text) for part in piece.parts):
            if piece.parts:
                self._waiting = []
            return []
        said, self._waiting = self._waiting, []
        return said

    def _is_said(self, token_id: int) -> bool:
        tokenizer = self._tokenizer
        if tokenizer is None or not tokenizer.is_special(token_id):
            return not self._silent
        if token_id in _ids(tokenizer, ("[THINK]", "[TOOL_CALLS]")):
            self._silent = True
        elif token_id in _ids(tokenizer, ("[/THINK]",)):
            self._silent = False
        return False


def _ids(tokenizer: Tokenizer, names: Sequence[str]) -> list[int | None]:
    return [tokenizer.special_id(name) for name in names]


def _failure(error: OstroError) -> Any:
    """One of the few codes that OpenAI's answers have."""
    if isinstance(error, QueueFullError):
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, InvalidRequestError) else "server_error"
