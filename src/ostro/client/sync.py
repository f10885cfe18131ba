"""`Client`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
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


class ChatStream:
    """Iterate for deltas. Closing it early (or leaving its `with` block) makes the server stop generating."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[ChatDelta]:
        with self, translated():
            reader = StreamReader()
            for line in self._response.iter_lines():
                delta = reader.read(line)
                if delta is not None:
                    yield delta
            reader.check_end()

    def close(self) -> None:
        self._response.close()

    def __enter__(self) -> ChatStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client(Settings):
    """Synchronous. Safe to share between threads; close it, or use it in a `with` block."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._http: dict[str, httpx2.Client] = {}

    __init__.__doc__ = Settings.__init__.__doc__

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
        """Answer `inputs={"text": …, "image": …, "audio": …, "series": …}`, at least one of them, on the node
        that `mode` ("auto", "edge" or "cloud") leads to. Images and sounds are bytes, the path of a file, base64 or a
        data URL; a series is numbers.

        Raises InvalidRequestError for inputs that cannot be sent, and whatever the server answers.
        """
        started = time.perf_counter()
        body = infer_body(inputs, model=model, max_tokens=max_tokens, temperature=temperature, **options)
        try:
            response, node = self._request("POST", "/v1/infer", body, mode)
        except APIError as error:
            if error.status not in NO_ROUTE:
                raise
            response, node = self._request("POST", "/v1/chat/completions", infer_as_chat(body), mode)
        return infer_result(json_of(response), node, started)

    @overload
    def chat(self, messages: Messages, *, stream: Literal[False] = False, **options: Any) -> ChatResult: ...

    @overload
    def chat(self, messages: Messages, *, stream: Literal[True], **options: Any) -> ChatStream: ...

    def chat(self, messages: Messages, *, stream: bool = False, **options: Any) -> ChatResult | ChatStream:
        """Answer a conversation. options: any field of the endpoint (model, max_tokens, temperature, seed, stop…)."""
        body = chat_body(messages, stream, options)
        response, _ = self._request("POST", "/v1/chat/completions", body, stream=stream)
        return ChatStream(response) if stream else chat_result(json_of(response))

    def complete(self, prompt: str | Sequence[int], **options: Any) -> ChatResult:
        """Continue a text, or token ids."""
        body = {**options, "prompt": prompt if isinstance(prompt, str) else list(prompt)}
        response, _ = self._request("POST", "/v1/completions", body)
        return chat_result(json_of(response))

    def models(self) -> list[str]:
        """Names of the models that are served."""
        response, _ = self._request("GET", "/v1/models")
        return [model["id"] for model in json_of(response)["data"]]

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

        url, key = node.url, self.api_key
        if url == OWN_EDGE:
            edge = edge_node(self.edge_model)
            url, key = edge.url, edge.key
        http = self._http.get(url)
        if http is None:
            http = self._http.setdefault(url, httpx2.Client(**self._http_options(url, key)))
        attempt = 0
        while True:
            try:
                with translated():
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
