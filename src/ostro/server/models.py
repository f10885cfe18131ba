"""The models that a server answers for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import Scope

from ostro.core.errors import InvalidRequestError, ModelNotFoundError, NotReadyError
from ostro.core.protocols import EngineService
from ostro.core.request import ModelCard
from ostro.tokenizer.base import Tokenizer
from ostro.web.rate import Allowance

T = TypeVar("T")

# Characters up to which a text is tokenised on the event loop: under a millisecond, less than a thread costs.
_INLINE_CHARACTERS = 2_000


@dataclass(frozen=True)
class ServedModel:
    """One model: its engine, wherever that runs, and its tokenizer; None takes and gives token ids only."""

    name: str
    engine: EngineService
    tokenizer: Tokenizer | None
    created: int = field(default_factory=lambda: int(time.time()))

    def ready_card(self) -> ModelCard:
        """Raises NotReadyError while the engine is not there."""
        card = self.engine.card
        reason = self.engine.reason
        if card is None or reason:
            reason = reason or f"The model '{self.name}' is not ready."
            raise NotReadyError(reason, retry_after=self.engine.retry_after)
        return card

    def eos_ids(self) -> set[int]:
        card = self.engine.card
        ids = set() if card is None else set(card.eos_token_ids)
        return ids if self.tokenizer is None else ids | set(self.tokenizer.eos_ids)

    async def encode(self, text: str) -> list[int]:
        """Token ids of a plain prompt. Raises InvalidRequestError where the model has no tokenizer."""
        tokenizer = self._tokenizer("prompt")
        return await _off_loop(lambda: tokenizer.encode(text), len(text))

    async def encode_chat(self, messages: list[dict[str, Any]], **options: Any) -> list[int]:
        """Token ids of a conversation in the model's own template; options are `Tokenizer.encode_chat`'s.

        Raises InvalidRequestError.
        """
        tokenizer = self._tokenizer("messages")
        size = sum(len(str(message.get("content", ""))) for message in messages)
        size += len(str(options["tools"])) if "tools" in options else 0
        return await _off_loop(lambda: tokenizer.encode_chat(messages, **options), size)

    async def encode_fim(self, prompt: str, suffix: str) -> list[int]:
        """Token ids that ask for what is between. Raises InvalidRequestError for a model that cannot."""
        tokenizer = self._tokenizer("prompt")
        return await _off_loop(lambda: tokenizer.encode_fim(prompt, suffix), len(prompt) + len(suffix))

    def _tokenizer(self, param: str) -> Tokenizer:
        if self.tokenizer is None:
            raise InvalidRequestError(
                f"The model '{self.name}' has no tokenizer, so it takes token ids only: POST /v1/completions with "
                "a list of integers as prompt.",
                param=param,
            )
        return self.tokenizer


class Models:
    """Served models by name."""

    def __init__(self, served: Mapping[str, ServedModel]) -> None:
        if not served:
            raise ValueError("a server needs at least one model")
        self.served = dict(served)

    async def use(self, request: Request, name: str | None) -> ServedModel:
        """The model of that name, loaded, until the answer to `request` is over."""
        model = self.find(name)
        request.state.model = model
        model.ready_card()
        return model

    @asynccontextmanager
    async def using(self, name: str | None) -> AsyncIterator[ServedModel]:
        """The model of that name, loaded, for work that is not a request's."""
        model = self.find(name)
        model.ready_card()
        yield model

    def allowance(self, scope: Scope) -> Allowance | None:
        """What the model that a request uses can still take; a node's only model for requests that use none."""
        model = scope.get("state", {}).get("model")
        if model is None and len(self.served) == 1:
            model = next(iter(self.served.values()))
        return None if model is None else Allowance.of(model.engine)

    def find(self, name: str | None) -> ServedModel:
        """The model of that name, the first one for None. Raises ModelNotFoundError that lists what there is."""
        if name is None:
            return next(iter(self.served.values()))
        model = self.served.get(name)
        if model is None:
            there = ", ".join(f"'{known}'" for known in self.served)
            error = ModelNotFoundError(f"There is no model '{name[:200]}' here. Served: {there}.", param="model")
            raise error
        return model


async def _off_loop(work: Callable[[], T], size: int) -> T:
    """Long texts are tokenised in a thread, so that other streams go on meanwhile."""
    return work() if size <= _INLINE_CHARACTERS else await asyncio.to_thread(work)
