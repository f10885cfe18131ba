"""What a gateway reads of a request: enough to choose a node and to hold its price, and no more. Nodes validate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ostro.core.errors import InvalidRequestError
from ostro.core.media import KINDS

# Tokens that a template puts around each message, at the most.
_AROUND = 16
# What an image, a sound or a series comes to at the most, where a node's context does not bound it.
_MEDIA_TOKENS = 4096
# So much of a prompt decides where its beginning is cached; system prompts differ within it.
_BEGINNING = 2048


@dataclass(frozen=True)
class Endpoint:
    """A route that nodes answer. prompt: fields that hold what is asked. most: fields with the most tokens of an
    answer, the first that is given counting. answers: whether an answer is generated at all. usage_option: whether a
    stream tells its usage only where `stream_options` ask for it."""

    path: str
    prompt: tuple[str, ...]
    most: tuple[str, ...] = ()
    answers: bool = True
    streams: bool = True
    usage_option: bool = False


ENDPOINTS = {
    one.path: one
    for one in (
        Endpoint(
            "/v1/chat/completions",
            ("messages", "tools"),
            ("max_completion_tokens", "max_tokens"),
            usage_option=True,
        ),
        Endpoint("/v1/completions", ("prompt", "suffix"), ("max_tokens",), usage_option=True),
        Endpoint("/v1/fim/completions", ("prompt", "suffix"), ("max_tokens",), usage_option=True),
        Endpoint("/v1/responses", ("input", "instructions", "tools"), ("max_output_tokens",)),
        Endpoint("/v1/messages", ("messages", "system", "tools"), ("max_tokens",)),
        Endpoint("/v1/infer", ("inputs", "image", "audio", "series", "text"), ("max_tokens",), streams=False),
        Endpoint("/v1/embeddings", ("input",), answers=False, streams=False),
        Endpoint("/v1/moderations", ("input",), answers=False, streams=False),
        Endpoint("/v1/chat/moderations", ("input",), answers=False, streams=False),
        Endpoint("/v1/tokenize", ("prompt", "messages"), answers=False, streams=False),
        Endpoint("/v1/messages/count_tokens", ("messages", "system", "tools"), answers=False, streams=False),
    )
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A body, read. prompt_tokens: at the most, by its bytes: no token is less than a byte. max_tokens: what was asked
    for, None for no number. choices: how many answers."""

    endpoint: Endpoint
    body: dict[str, Any]
    model: str
    stream: bool
    wants_usage: bool
    prompt_tokens: int
    max_tokens: int | None
    choices: int
    modalities: frozenset[str]
    tools: bool
    beginning: bytes

    @property
    def deterministic(self) -> bool:
        """Whether the same request always has the same answer: nothing is drawn, or what is drawn is fixed."""
        body = self.body
        return body.get("temperature") == 0 or body.get("seed") is not None or body.get("random_seed") is not None


def read_asked(endpoint: Endpoint, data: bytes, default_model: str | None) -> Asked:
    """Raises InvalidRequestError for what no node could answer."""
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequestError(f"The body is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    model = body.get("model") or default_model
    if not isinstance(model, str):
        raise InvalidRequestError("'model' must name a model; `GET /v1/models` lists them.", param="model")
    stream = body.get("stream") or False
    if not isinstance(stream, bool):
        raise InvalidRequestError("'stream' must be true or false.", param="stream")
    if stream and not endpoint.streams:
        raise InvalidRequestError(f"{endpoint.path} answers whole; leave 'stream' out.", param="stream")
    options = body.get("stream_options")
    size, modalities, beginning = _measured(endpoint, body)
    return Asked(
        endpoint=endpoint,
        body=body,
        model=model,
        stream=stream,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
        prompt_tokens=size,
        max_tokens=_most(endpoint, body),
        choices=_number(body, "n", 128) or 1,
        modalities=modalities,
        tools=bool(body.get("tools")),
        beginning=beginning,
    )


def _most(endpoint: Endpoint, body: Mapping[str, Any]) -> int | None:
    for name in endpoint.most:
        found = _number(body, name, 100_000_000)
        if found is not None:
            return found
    return None


def _number(body: Mapping[str, Any], name: str, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InvalidRequestError(f"'{name}' must be a whole number from 0 to {most}.", param=name)
    return value


def _measured(endpoint: Endpoint, body: Mapping[str, Any]) -> tuple[int, frozenset[str], bytes]:
    """Tokens of the prompt at the most, the senses that it needs, and a digest of how it begins."""
    tokens, left = 0, _BEGINNING
    senses: set[str] = set()
    digest = hashlib.blake2b(str(body.get("model")).encode(), digest_size=16)
    for name in endpoint.prompt:
        for kind, value in _leaves({name: body.get(name)}):
            if kind is not None:
                senses.add(kind)
                tokens += _MEDIA_TOKENS
                continue
            if isinstance(value, int):  # a token id
                tokens += 1
                continue
            text = value.encode("utf-8", "surrogatepass")
            tokens += len(text)
            if left > 0:
                digest.update(text[:left])
                left -= len(text)
    if isinstance(body.get("messages"), list):
        tokens += _AROUND * len(body["messages"])
    return tokens + _AROUND, frozenset(senses), digest.digest()


def _leaves(value: Any) -> Iterator[tuple[str | None, Any]]:
    """Texts and token ids, and the senses of media, in order. Not recursive: what is nested deeply is read as well."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            yield None, one
        elif isinstance(one, bool | float) or one is None:
            continue
        elif isinstance(one, int):
            yield None, one
        elif isinstance(one, list):
            todo.extend(reversed(one))
        elif isinstance(one, dict):
            kind = KINDS.get(str(one.get("type")))
            if kind is not None:
                yield kind, None
                continue
            for name in reversed(one):
                # The inputs of /v1/infer have their senses as names, in the body itself or below.
                if name in ("image", "audio", "series") and "type" not in one:
                    if one[name] is not None:
                        todo.append({"type": "input_audio" if name == "audio" else f"input_{name}"})
                else:
                    todo.append(one[name])
