"""`AsyncClient`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from ostro.client.edge import edge_node
from ostro.client.failures import NO_ROUTE, error_of, json_of, translated
from ostro.client.results import (
    ChatDelta,
    ChatResult,
    InferResult,
    Messages,
    StreamReader,
    chat_body,
    chat_result,
    infer_as_chat,
    infer_body,
    infer_result,
)
from ostro.client.settings import Settings
from ostro.core.errors import APIConnectionError, APIError, NotReadyError, OstroError
from ostro.routing.endpoints import OWN_EDGE, Candidate, candidates

if TYPE_CHECKING:
    import httpx2


class AsyncChatStream:
    """`ChatStream` for `async for` and `async with`."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[ChatDelta]:
        async with self:
            with translated():
                reader = StreamReader()
                async for line in self._response.aiter_lines():
                    delta = reader.read(line)
                    if delta is not None:
                        yield delta
                reader.check_end()

    async def aclose(self) -> None:
        await self._response.aclose()

    async def __aenter__(self) -> AsyncChatStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class AsyncClient(Settings):
    """`Client` for asyncio. Use it in one event loop; close it, or use it in an `async with` block."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._http: dict[str, httpx2.AsyncClient] = {}

    __init__.__doc__ = Settings.__init__.__doc__

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
        body = infer_body(inputs, model=model, max_tokens=max_tokens, temperature=temperature, **options)
        try:
            response, node = await self._request("POST", "/v1/infer", body, mode)
        except APIError as error:
            if error.status not in NO_ROUTE:
                raise
            response, node = await self._request("POST", "/v1/chat/completions", infer_as_chat(body), mode)
        return infer_result(json_of(response), node, started)

    @overload
    async def chat(self, messages: Messages, *, stream: Literal[False] = False, **options: Any) -> ChatResult: ...

    @overload
    async def chat(self, messages: Messages, *, stream: Literal[True], **options: Any) -> AsyncChatStream: ...

    async def chat(self, messages: Messages, *, stream: bool = False, **options: Any) -> ChatResult | AsyncChatStream:
        """See `Client.chat`."""
        body = chat_body(messages, stream, options)
        response, _ = await self._request("POST", "/v1/chat/completions", body, stream=stream)
        return AsyncChatStream(response) if stream else chat_result(json_of(response))

    async def complete(self, prompt: str | Sequence[int], **options: Any) -> ChatResult:
        """See `Client.complete`."""
        body = {**options, "prompt": prompt if isinstance(prompt, str) else list(prompt)}
        response, _ = await self._request("POST", "/v1/completions", body)
        return chat_result(json_of(response))

    async def models(self) -> list[str]:
        """Names of the models that are served."""
        response, _ = await self._request("GET", "/v1/models")
        return [model["id"] for model in json_of(response)["data"]]

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

        url, key = node.url, self.api_key
        if url == OWN_EDGE:
            edge = await asyncio.to_thread(edge_node, self.edge_model)
            url, key = edge.url, edge.key
        http = self._http.get(url)
        if http is None:
            http = self._http.setdefault(url, httpx2.AsyncClient(**self._http_options(url, key)))
        attempt = 0
        while True:
            try:
                with translated():
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
