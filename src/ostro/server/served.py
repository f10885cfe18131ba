"""One model that a server answers for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ostro.core.errors import InvalidRequestError, NotReadyError
from ostro.core.media import MediaInput, Prompt
from ostro.core.protocols import EngineService
from ostro.core.request import ModelCard
from ostro.media.senses import Senses
from ostro.tokenizer.base import Tokenizer

T = TypeVar("T")

# Characters up to which a text is tokenised on the event loop: under a millisecond, less than a thread costs.
_INLINE_CHARACTERS = 2_000


@dataclass(frozen=True)
class ServedModel:
    """One model: its engine, wherever that runs, its tokenizer, without which it takes and gives token ids only, and
    how it wants images and sounds."""

    name: str
    engine: EngineService
    tokenizer: Tokenizer | None
    senses: Senses = Senses()  # noqa: RUF009 - it is frozen
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

    async def encode(self, text: str, *, bos: bool = True, param: str = "prompt") -> list[int]:
        """Token ids of a plain prompt. Raises InvalidRequestError (`param`) where the model has no tokenizer."""
        tokenizer = self.text_tokenizer(param)
        return await off_loop(lambda: tokenizer.encode(text, bos=bos), len(text))

    async def render(self, messages: list[dict[str, Any]], **options: Any) -> Prompt:
        """A conversation in the model's own template, its media read; options are `Tokenizer.render`'s.

        Raises InvalidRequestError.
        """
        tokenizer = self.text_tokenizer("messages")
        size = sum(_size(message.get(name)) for message in messages for name in ("content", "tool_calls"))
        size += len(str(options["tools"])) if "tools" in options else 0
        return await off_loop(lambda: tokenizer.render(messages, **options), size)

    async def render_transcription(self, media: MediaInput, language: str | None) -> Prompt:
        """A prompt that asks for what is said. language: ISO 639-1, None where it is not known.

        Raises InvalidRequestError where the model's template cannot ask for that.
        """
        tokenizer = self.text_tokenizer("model")
        return await off_loop(lambda: tokenizer.render_transcription(media, language), media.tokens)

    async def encode_fim(self, prompt: str, suffix: str) -> list[int]:
        """Token ids that ask for what is between. Raises InvalidRequestError for a model that cannot."""
        tokenizer = self.text_tokenizer("prompt")
        return await off_loop(lambda: tokenizer.encode_fim(prompt, suffix), len(prompt) + len(suffix))

    def text_tokenizer(self, param: str) -> Tokenizer:
        """The tokenizer. Raises InvalidRequestError, naming the field that needs it, where there is none."""
        if self.tokenizer is None:
            raise InvalidRequestError(
                f"The model '{self.name}' has no tokenizer, so it takes token ids only: POST /v1/completions with "
                "a list of integers as prompt.",
                param=param,
            )
        return self.tokenizer


def _size(content: object) -> int:
    """About how many characters; what was read of an image is none."""
    if isinstance(content, list):
        return sum(_size({k: v for k, v in part.items() if k != "media"}) for part in content if isinstance(part, dict))
    return len(str(content))


async def off_loop(work: Callable[[], T], size: int) -> T:
    """Long texts are tokenised in a thread, so that other streams go on meanwhile."""
    return work() if size <= _INLINE_CHARACTERS else await asyncio.to_thread(work)
