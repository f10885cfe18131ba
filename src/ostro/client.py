"""The SDK: `Client` and `AsyncClient` over HTTP. Torch-free, and light at import.

>>> from ostro import Client
>>> Client(api_key="k").infer(inputs={"text": "Where is my card?"}, mode="auto").text   # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from ostro.core.errors import (
    APIConnectionError,
    APIError,
    AuthenticationError,
    DeadlineExceededError,
    EngineDeadError,
    InvalidRequestError,
    ModelNotFoundError,
    NotReadyError,
    OstroError,
    QueueFullError,
)
from ostro.core.request import Usage
from ostro.routing.endpoints import DEFAULT_EDGE_URL, Candidate, candidates, is_local

if TYPE_CHECKING:
    import httpx2

DEFAULT_TIMEOUT_S = 600.0
_CONNECT_S = 5.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0

# What servers say to a path that they do not have.
_NO_ROUTE = (404, 405)

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class InferResult:
    """What `infer` gives. route: "edge" or "cloud", and the reason why. labels: found labels, where a model gives
    any. cost: 0.0 on an edge node, None where the node tells no price. latency_ms: from the call to the answer."""

    text: str
    labels: list[str]
    route: str
    reason: str
    usage: Usage
    cost: float | None
    latency_ms: float


@dataclass(frozen=True)
class ChatResult:
    """One answer. finish_reason: "stop" or "length". raw: the server's whole JSON body."""

    text: str
    finish_reason: str
    usage: Usage
    id: str
    model: str
    raw: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class ChatDelta:
    """A piece of a streamed answer. usage comes with the last one."""

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None


class ChatStream:
    """Iterate for deltas. Closing it early (or leaving its `with` block) makes the server stop generating."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[ChatDelta]:
        with self, _translated():
            for line in self._response.iter_lines():
                delta = _delta(line)
                if delta is not None:
                    yield delta

    def close(self) -> None:
        self._response.close()

    def __enter__(self) -> ChatStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncChatStream:
    """`ChatStream` for `async for` and `async with`."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[ChatDelta]:
        async with self:
            with _translated():
                async for line in self._response.aiter_lines():
                    delta = _delta(line)
                    if delta is not None:
                        yield delta

    async def aclose(self) -> None:
        await self._response.aclose()

    async def __aenter__(self) -> AsyncChatStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Settings:
    """What both clients keep and how they decide; no input or output here."""

    def __init__(
        self,
        api_key: str | None = None,
        endpoint: str = DEFAULT_EDGE_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        max_retries: int = 2,
    ) -> None:
        """api_key: by default OSTRO_API_KEY. endpoint: a URL, or "edge", "cloud" or "cloud/edge", which stand for
        OSTRO_EDGE_URL (by default the local node) and OSTRO_CLOUD_URL. timeout: seconds a server may be silent.
        max_retries: further tries after 429, 503 or a refused connection, before anything was answered.
        """
        if timeout <= 0:
            raise InvalidRequestError(f"timeout must be above 0 seconds, not {timeout:g}.", param="timeout")
        if max_retries < 0:
            raise InvalidRequestError("max_retries must not be negative.", param="max_retries")
        self.api_key = api_key if api_key is not None else os.environ.get("OSTRO_API_KEY")
        self.endpoint = endpoint
        self.timeout = timeout
        self.max_retries = max_retries
        candidates(endpoint, "auto", os.environ)  # A wrong endpoint is told now, not at the first call.

    def _http_options(self, url: str) -> dict[str, Any]:
        import httpx2

        from ostro import __version__

        headers = {"user-agent": f"ostro/{__version__}"}
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        return {
            "base_url": url,
            "headers": headers,
            "timeout": httpx2.Timeout(self.timeout, connect=_CONNECT_S),
            # A proxy from the environment has no way to this machine's own loopback.
            "trust_env": not is_local(url),
            "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        }

    def _pause(self, error: OstroError, attempt: int, *, is_last_node: bool) -> float | None:
        """Seconds until the next try of the same node; None where there is to be none."""
        if attempt >= self.max_retries or not isinstance(error, NotReadyError | QueueFullError | APIConnectionError):
            return None
        if isinstance(error, APIConnectionError) and not (is_last_node and error.code == "connection_refused"):
            return None  # Another node is there to try, or the request may have been taken already.
        asked = getattr(error, "retry_after", None)
        own = _FIRST_PAUSE_S * 2.0**attempt * random.uniform(0.75, 1.25)
        return float(min(_LONGEST_PAUSE_S, asked if asked is not None else own))


class Client(_Settings):
    """Synchronous. Safe to share between threads; close it, or use it in a `with` block."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._http: dict[str, httpx2.Client] = {}

    __init__.__doc__ = _Settings.__init__.__doc__

    def infer(
        self,
        inputs: Mapping[str, Any],
        mode: str = "auto",
        *,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        **options: Any,
    ) -> InferResult:
        """Answer `inputs={"text": …}` on the node that `mode` ("auto", "edge" or "cloud") leads to.

        Raises InvalidRequestError for inputs that no model here takes, and whatever the server answers.
        """
        started = time.perf_counter()
        body = _infer_body(inputs, model=model, max_tokens=max_tokens, temperature=temperature, **options)
        try:
            response, node = self._request("POST", "/v1/infer", body, mode)
        except APIError as error:
            if error.status not in _NO_ROUTE:
                raise
            response, node = self._request("POST", "/v1/chat/completions", _infer_as_chat(body), mode)
        return _infer_result(_json(response), node, started)

    @overload
    def chat(self, messages: Messages, *, stream: Literal[False] = False, **options: Any) -> ChatResult: ...

    @overload
    def chat(self, messages: Messages, *, stream: Literal[True], **options: Any) -> ChatStream: ...

    def chat(self, messages: Messages, *, stream: bool = False, **options: Any) -> ChatResult | ChatStream:
        """Answer a conversation. options: any field of the endpoint (model, max_tokens, temperature, seed, stop…)."""
        body = _chat_body(messages, stream, options)
        response, _ = self._request("POST", "/v1/chat/completions", body, stream=stream)
        return ChatStream(response) if stream else _chat_result(_json(response))

    def complete(self, prompt: str | Sequence[int], **options: Any) -> ChatResult:
        """Continue a text, or token ids."""
        body = {**options, "prompt": prompt if isinstance(prompt, str) else list(prompt)}
        response, _ = self._request("POST", "/v1/completions", body)
        return _chat_result(_json(response))

    def models(self) -> list[str]:
        """Names of the models that are served."""
        response, _ = self._request("GET", "/v1/models")
        return [model["id"] for model in _json(response)["data"]]

    def close(self) -> None:
        for http in self._http.values():
            http.close()
        self._http.clear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def _request(
        self, method: str, path: str, body: Any = None, mode: str = "auto", *, stream: bool = False
    ) -> tuple[httpx2.Response, Candidate]:
        nodes = candidates(self.endpoint, mode, os.environ)
        for index, node in enumerate(nodes):
            is_last = index == len(nodes) - 1
            try:
                return self._try(node, method, path, body, stream=stream, is_last=is_last), node
            except (APIConnectionError, NotReadyError):
                if is_last:
                    raise
        raise AssertionError("there is always a node")

    def _try(
        self, node: Candidate, method: str, path: str, body: Any, *, stream: bool, is_last: bool
    ) -> httpx2.Response:
        import httpx2

        http = self._http.get(node.url)
        if http is None:
            http = self._http.setdefault(node.url, httpx2.Client(**self._http_options(node.url)))
        attempt = 0
        while True:
            try:
                with _translated():
                    response = http.send(http.build_request(method, path, json=body), stream=stream)
                    if response.is_success:
                        return response
                    response.read()
                raise error_of(response)
            except OstroError as error:
                pause = self._pause(error, attempt, is_last_node=is_last)
                if pause is None:
                    raise
            time.sleep(pause)
            attempt += 1


class AsyncClient(_Settings):
    """`Client` for asyncio. Use it in one event loop; close it, or use it in an `async with` block."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._http: dict[str, httpx2.AsyncClient] = {}

    __init__.__doc__ = _Settings.__init__.__doc__

    async def infer(
        self,
        inputs: Mapping[str, Any],
        mode: str = "auto",
        *,
        model: str | None = None,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        **options: Any,
    ) -> InferResult:
        """See `Client.infer`."""
        started = time.perf_counter()
        body = _infer_body(inputs, model=model, max_tokens=max_tokens, temperature=temperature, **options)
        try:
            response, node = await self._request("POST", "/v1/infer", body, mode)
        except APIError as error:
            if error.status not in _NO_ROUTE:
                raise
            response, node = await self._request("POST", "/v1/chat/completions", _infer_as_chat(body), mode)
        return _infer_result(_json(response), node, started)

    @overload
    async def chat(self, messages: Messages, *, stream: Literal[False] = False, **options: Any) -> ChatResult: ...

    @overload
    async def chat(self, messages: Messages, *, stream: Literal[True], **options: Any) -> AsyncChatStream: ...

    async def chat(self, messages: Messages, *, stream: bool = False, **options: Any) -> ChatResult | AsyncChatStream:
        """See `Client.chat`."""
        body = _chat_body(messages, stream, options)
        response, _ = await self._request("POST", "/v1/chat/completions", body, stream=stream)
        return AsyncChatStream(response) if stream else _chat_result(_json(response))

    async def complete(self, prompt: str | Sequence[int], **options: Any) -> ChatResult:
        """See `Client.complete`."""
        body = {**options, "prompt": prompt if isinstance(prompt, str) else list(prompt)}
        response, _ = await self._request("POST", "/v1/completions", body)
        return _chat_result(_json(response))

    async def models(self) -> list[str]:
        """Names of the models that are served."""
        response, _ = await self._request("GET", "/v1/models")
        return [model["id"] for model in _json(response)["data"]]

    async def aclose(self) -> None:
        for http in self._http.values():
            await http.aclose()
        self._http.clear()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _request(
        self, method: str, path: str, body: Any = None, mode: str = "auto", *, stream: bool = False
    ) -> tuple[httpx2.Response, Candidate]:
        nodes = candidates(self.endpoint, mode, os.environ)
        for index, node in enumerate(nodes):
            is_last = index == len(nodes) - 1
            try:
                return await self._try(node, method, path, body, stream=stream, is_last=is_last), node
            except (APIConnectionError, NotReadyError):
                if is_last:
                    raise
        raise AssertionError("there is always a node")

    async def _try(
        self, node: Candidate, method: str, path: str, body: Any, *, stream: bool, is_last: bool
    ) -> httpx2.Response:
        import httpx2

        http = self._http.get(node.url)
        if http is None:
            http = self._http.setdefault(node.url, httpx2.AsyncClient(**self._http_options(node.url)))
        attempt = 0
        while True:
            try:
                with _translated():
                    response = await http.send(http.build_request(method, path, json=body), stream=stream)
                    if response.is_success:
                        return response
                    await response.aread()
                raise error_of(response)
            except OstroError as error:
                pause = self._pause(error, attempt, is_last_node=is_last)
                if pause is None:
                    raise
            await asyncio.sleep(pause)
            attempt += 1


class _translated:  # noqa: N801 - reads as the statement it is
    """`with _translated():` turns httpx2's connection errors into ours."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import httpx2

        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            url = error.request.url
            raise APIConnectionError(
                f"Cannot reach {url.scheme}://{url.netloc.decode()}: {error}. Is the server running?",
                code="connection_refused",
            ) from error
        if isinstance(error, httpx2.TimeoutException):
            raise APIConnectionError("The server was silent for longer than the client's timeout.") from error
        if isinstance(error, httpx2.TransportError):
            raise APIConnectionError(f"The connection broke: {error or type(error).__name__}.") from error


def error_of(response: httpx2.Response) -> OstroError:
    """The error that a server answered with; its body has been read."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    error = _from_body(body if isinstance(body, dict) else {}, response.status_code, _retry_after(response))
    if isinstance(error, APIError):
        error.request_id = response.headers.get("x-request-id")
    return error


def _from_body(body: Mapping[str, Any], status: int, retry_after: float | None) -> OstroError:
    fields = body.get("error")
    if not isinstance(fields, dict):
        fields = body
    message = str(fields.get("message") or body.get("detail") or f"The server answered with status {status}.")
    code = str(fields.get("code") or "")
    error = _error_kind(message, status, code, retry_after)
    error.status = status
    error.type = str(fields.get("type") or error.type)
    error.code = code or error.code
    error.param = fields.get("param")
    return error


def _error_kind(message: str, status: int, code: str, retry_after: float | None) -> OstroError:
    match status:
        case 401:
            return AuthenticationError(message)
        case 404 if code == "model_not_found":
            return ModelNotFoundError(message)
        case 400 | 413 | 415 | 422:
            return InvalidRequestError(message)
        case 429:
            return QueueFullError(message, retry_after=1.0 if retry_after is None else retry_after)
        case 503 if code == "engine_dead":
            return EngineDeadError(message, retry_after=5.0 if retry_after is None else retry_after)
        case 503:
            return NotReadyError(message, retry_after=5.0 if retry_after is None else retry_after)
        case 504:
            return DeadlineExceededError(message)
    return APIError(message, status=status, code=code or None, retry_after=retry_after)


_STATUS_OF_CODE = {"engine_dead": 503, "not_ready": 503, "deadline_exceeded": 504, "queue_full": 429}


def _retry_after(response: httpx2.Response) -> float | None:
    try:
        return float(response.headers.get("retry-after", ""))
    except ValueError:
        return None


def _json(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError as error:
        raise APIError("The server's answer is not JSON.", status=response.status_code) from error
    if not isinstance(body, dict):
        raise APIError("The server's answer is not a JSON object.", status=response.status_code)
    return body


def _chat_body(messages: Messages, stream: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    body = {**options, "messages": [dict(message) for message in messages]}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _infer_body(inputs: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Anything but text is refused: dropped silently, the answer would be to another question."""
    for name in inputs:
        if name != "text":
            raise InvalidRequestError(
                f"inputs['{name}'] was given, but this model takes text only.", param=f"inputs.{name}"
            )
    text = inputs.get("text")
    if not isinstance(text, str) or not text:
        raise InvalidRequestError("inputs needs a non-empty 'text'.", param="inputs.text")
    return {"inputs": dict(inputs), **{name: value for name, value in options.items() if value is not None}}


def _infer_as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same for servers that speak OpenAI's API alone."""
    options = {name: value for name, value in body.items() if name != "inputs"}
    return {"messages": [{"role": "user", "content": body["inputs"]["text"]}], **options}


def _usage(body: Mapping[str, Any]) -> Usage:
    usage = body.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", 0),
        cached_tokens=details.get("cached_tokens", 0),
    )


def _chat_result(body: dict[str, Any]) -> ChatResult:
    choice = body["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return ChatResult(
        text=text or "",
        finish_reason=choice.get("finish_reason") or "",
        usage=_usage(body),
        id=body.get("id", ""),
        model=body.get("model", ""),
        raw=body,
    )


def _infer_result(body: dict[str, Any], node: Candidate, started: float) -> InferResult:
    cost = body.get("cost")
    return InferResult(
        text=_chat_result(body).text if "choices" in body else body["text"],
        labels=list(body.get("labels") or ()),
        route=node.route,
        reason=node.reason,
        usage=_usage(body),
        cost=0.0 if cost is None and node.route == "edge" else cost,
        latency_ms=(time.perf_counter() - started) * 1000.0,
    )


def _delta(line: str) -> ChatDelta | None:
    """What one line of an event stream says; None for heartbeats, blank lines and empty chunks."""
    if not line.startswith("data:"):
        return None
    data = line.removeprefix("data:").strip()
    if data == "[DONE]":
        return None
    chunk = json.loads(data)
    if chunk.get("error"):
        code = (chunk["error"] or {}).get("code") or ""
        raise _from_body(chunk, _STATUS_OF_CODE.get(code, 500), None)
    usage = _usage(chunk) if chunk.get("usage") else None
    choice = chunk["choices"][0] if chunk.get("choices") else {}
    text = (choice.get("delta") or {}).get("content") or ""
    reason = choice.get("finish_reason")
    return ChatDelta(text, reason, usage) if text or reason or usage else None
