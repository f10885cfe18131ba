"""Wire types of `/v1/infer`: one input, one answer, as `Client.infer` sends and reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ostro.core.errors import InvalidRequestError
from ostro.core.request import LabelScore, Routing
from ostro.core.sampling import SamplingParams
from ostro.web.wire import GenerationRequest, UsageInfo

# In the order in which a model gets them: what is asked comes last.
INPUTS = ("image", "audio", "series", "text")
_PARTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "image": lambda value: {"type": "image_url", "image_url": {"url": value}},
    "audio": lambda value: {"type": "audio_url", "audio_url": {"url": value}},
    "series": lambda value: {"type": "input_series", "input_series": value},
    "text": lambda value: {"type": "text", "text": value},
}
_PLACE = re.compile(r"\bmessages\[0\](?:\.content(?:\[(\d+)\])?)?[\w.]*")


class InferRequest(GenerationRequest):
    """inputs: `{"text": …, "image": …, "audio": …, "series": …}`, at least one of them; images and sounds in base64
    or as data URLs, a series as a list of numbers. Without `inputs` they may stand in the body itself.

    A text may hold them inline: `<image>…</image>`. The sampling fields are those of chat; temperature is 0 unless it
    is given. There is one answer, and it comes whole.
    """

    inputs: dict[str, Any] | None = None
    text: str | None = None
    image: str | None = None
    audio: str | None = None
    series: Any = None
    return_routing: bool | None = None

    def content(self) -> str | list[dict[str, Any]]:
        """The inputs as a message's content. Raises InvalidRequestError naming the input that is missing or unknown, or
        that stands both in the body and in `inputs`."""
        beside = next((name for name in INPUTS if getattr(self, name) is not None), None)
        if self.inputs is None and beside is None:
            raise InvalidRequestError(
                f"'inputs' is missing: an object with one of {', '.join(INPUTS)}. The body itself may have them too.",
                param="inputs",
            )
        if self.inputs is not None and beside is not None:
            raise InvalidRequestError(
                f"'{beside}' was given beside 'inputs'. Put all that is asked into 'inputs', or leave that out.",
                param=beside,
            )
        for name in self.inputs or ():
            if name not in INPUTS:
                raise InvalidRequestError(
                    f"inputs['{name[:40]}'] was given; known inputs are {', '.join(INPUTS)}.",
                    param=f"inputs.{name[:40]}",
                )
        given = self._given()
        for name, value in given.items():
            # A series is numbers, which whoever reads media checks one by one.
            if name != "series" and (not isinstance(value, str) or not value):
                raise InvalidRequestError(f"{self.field(name)} must be a non-empty string.", param=self.field(name))
        if not given:
            raise InvalidRequestError(f"inputs needs one of {', '.join(INPUTS)}.", param="inputs.text")
        if list(given) == ["text"]:
            return str(given["text"])
        return [_PARTS[name](value) for name, value in given.items()]

    def field(self, name: str) -> str:
        """Where in the body an input stands."""
        return name if self.inputs is None else f"inputs.{name}"

    def _given(self) -> dict[str, Any]:
        """By name, in the order in which the model gets them."""
        found = {name: getattr(self, name) for name in INPUTS} if self.inputs is None else self.inputs
        return {name: found[name] for name in INPUTS if found.get(name) is not None}

    @contextmanager
    def own_words(self) -> Iterator[None]:
        """Errors that name parts of a message, by the names of the inputs."""
        names = list(self._given())

        def named(found: re.Match[str]) -> str:
            number = int(found[1] or 0)
            return self.field(names[number] if number < len(names) else "text")

        try:
            yield
        except InvalidRequestError as error:
            error.message = _PLACE.sub(named, error.message)
            error.args = (error.message,)
            error.param = None if error.param is None else _PLACE.sub(named, error.param)
            raise

    def ignored(self) -> list[str]:
        """Known fields that ask for what there is no place for."""
        return ["return_token_ids"] if self.return_token_ids else []

    def params(self) -> SamplingParams:
        """Raises InvalidRequestError naming the field."""
        if self.stream:
            raise InvalidRequestError(
                "/v1/infer answers whole; leave 'stream' out, or use /v1/chat/completions.", param="stream"
            )
        if self.n not in (None, 1):
            raise InvalidRequestError("/v1/infer gives one answer; n must be 1.", param="n")
        if self.temperature is None:
            self.temperature = 0.0
        return self.sampling(max_tokens=self.max_tokens, logprobs=None)


class Inference(msgspec.Struct, frozen=True, kw_only=True):
    """labels: of the input, the most probable first; none from models without a head for them. cost: None where a node
    has no prices. routing: where it was asked for; null for models that do not route."""

    id: str
    model: str
    text: str
    labels: list[LabelScore]
    finish_reason: str
    usage: UsageInfo
    cost: float | None
    routing: Routing | UnsetType | None = UNSET
