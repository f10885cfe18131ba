"""From the images and sounds in a request's messages to what an engine takes: fetched, decoded, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar, TypeVarTuple

from ostro.core.errors import InvalidRequestError, PromptTooLongError
from ostro.core.media import MediaInput
from ostro.media.audio import Sound
from ostro.media.inline import split_inline
from ostro.media.parts import MediaSource, find_sources, hear_source, put_back, read_source
from ostro.media.senses import Senses
from ostro.web.fetching import MediaFetcher

# Decoding takes a core and, for a large image, hundreds of megabytes.
_AT_A_TIME = 2
# Fetches of one request at a time: fewer than the fetcher's own, so that others come to theirs.
_FETCHES = 3
# What one request may have fetched altogether; what is sent is bounded by the body.
MAX_FETCHED_BYTES = 128 * 1024 * 1024
# What the media of one conversation may take once they are read, and conversations that are read at a time. A model's
# context ends most before; of one that is not loaded it is not known.
MAX_READ_BYTES = 512 * 1024 * 1024
_CONVERSATIONS = 8

Result = TypeVar("Result")
Given = TypeVarTuple("Given")


class MediaTooLargeError(InvalidRequestError):
    """An image or a sound of more bytes than the server takes."""

    status = 413


class MediaReader:
    """fetcher: gets what clients send addresses of. limits: most bytes of one image or sound, sent or fetched, by
    modality; what is not in them has no limit of its own, such as series."""

    def __init__(self, fetcher: MediaFetcher, limits: Mapping[str, int]) -> None:
        self._fetcher = fetcher
        self._limits = limits
        # Threads of their own: one whose client has left goes on to its end, and no other begins meanwhile.
        self._decoding = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="decode")
        self._reading = asyncio.Semaphore(_CONVERSATIONS)
        # Beside it, so that slow hosts keep nobody waiting whose images are there; what was fetched is held meanwhile.
        self._fetching = asyncio.Semaphore(_CONVERSATIONS)

    async def read(
        self,
        messages: Sequence[Mapping[str, Any]],
        senses: Senses,
        room: int | None = None,
        *,
        apart: bool = False,
    ) -> list[dict[str, Any]]:
        """Messages as a tokenizer takes them. room: tokens that the model's context has, where that is known. apart:
        each message is a prompt by itself, with the context to itself.

        Raises InvalidRequestError naming the field, PromptTooLongError as soon as what was read does not fit: a small
        file may hold half an hour of silence, of which the features are a hundred megabytes.
        """
        if _plain(messages):
            return [dict(message) for message in messages]
        split, sources = await asyncio.to_thread(_find, messages, senses)
        if not sources:
            return split
        async with AsyncExitStack() as turns:
            if any(source.data is None for source in sources):
                await turns.enter_async_context(self._fetching)
                sources = await self._fetched(sources)
            async with self._reading:
                return put_back(split, await self._all(sources, senses, room, apart=apart))

    async def _all(
        self, sources: Sequence[MediaSource], senses: Senses, room: int | None, *, apart: bool
    ) -> dict[tuple[int, int], MediaInput]:
        # Equal media are read once, however often a conversation shows them.
        read: dict[tuple[bytes | None, str | None, str | None, str], MediaInput] = {}
        found: dict[tuple[int, int], MediaInput] = {}
        tokens = taken = 0
        for source in sources:
            key = (source.data, source.url, source.declared, source.modality)
            try:
                if key not in read:
                    data, declared = await self._bytes_of(source)
                    read[key] = await self._decoded(read_source, source, data, declared, senses, room)
                    taken += len(read[key].data)
                tokens = read[key].tokens + (0 if apart else tokens)
                if room is not None and tokens > room:
                    raise PromptTooLongError(tokens, None, room, at_least=True)
            except PromptTooLongError as error:
                error.param = f"messages[{source.place[0]}]" if apart else "messages"
                raise
            if taken > MAX_READ_BYTES:
                raise InvalidRequestError(
                    f"The images and sounds up to {source.where} take more than {MAX_READ_BYTES} bytes once they "
                    "are read. Send fewer, or shorter ones.",
                    param=source.where,
                    code="too_many_media",
                )
            found[source.place] = read[key]
        return found

    async def hear(self, source: MediaSource, senses: Senses, room: int | None = None) -> Sound:
        """A sound that is no part of a message. Raises InvalidRequestError naming its field, PromptTooLongError."""
        data, declared = await self._bytes_of(source)
        return await self._decoded(hear_source, source, data, source.declared or declared, senses, room)

    async def close(self) -> None:
        self._decoding.shutdown(wait=False, cancel_futures=True)
        await self._fetcher.close()

    async def _decoded(self, work: Callable[[*Given], Result], *given: *Given) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._decoding, work, *given)

    async def _fetched(self, sources: Sequence[MediaSource]) -> list[MediaSource]:
        """Addresses replaced by what is there, each fetched once, a few side by side; the first failure ends the
        others."""
        turns, fetched = asyncio.Semaphore(_FETCHES), 0

        async def fetch(source: MediaSource) -> tuple[bytes, str | None]:
            nonlocal fetched
            async with turns:
                found = await self._bytes_of(source)
            fetched += len(found[0])
            if fetched > MAX_FETCHED_BYTES:
                raise MediaTooLargeError(
                    f"{source.where}: what this request has had fetched is more than {MAX_FETCHED_BYTES} bytes by now. "
                    "Send fewer, or smaller ones.",
                    param=source.where,
                    code="too_many_media",
                )
            return found

        first = {(source.url, source.modality): source for source in reversed(sources) if source.data is None}
        tasks = {key: asyncio.create_task(fetch(source)) for key, source in first.items()}
        try:
            await asyncio.gather(*tasks.values())
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return [
            source if source.data is not None else _with_bytes(source, *tasks[source.url, source.modality].result())
            for source in sources
        ]

    async def _bytes_of(self, source: MediaSource) -> tuple[bytes, str | None]:
        """What was sent, or is at the address that was, and what whoever gave it says that it is."""
        data, declared = source.data, source.declared
        if data is None:
            assert source.url is not None
            try:
                fetched = await self._fetcher.fetch(source.url)
            except InvalidRequestError as error:
                error.param = source.where
                raise
            data, declared = fetched.data, fetched.declared
        most = self._limits.get(source.modality, len(data))
        if len(data) > most:
            raise MediaTooLargeError(
                f"{source.where}: the {source.modality} has {len(data)} bytes; up to {most} are taken.",
                param=source.where,
                code=f"{source.modality}_too_large",
            )
        return data, declared


def _with_bytes(source: MediaSource, data: bytes, declared: str | None) -> MediaSource:
    # What this place says of it counts before what the host says, or another place.
    return replace(source, data=data, url=None, declared=source.declared or declared)


def _find(messages: Sequence[Mapping[str, Any]], senses: Senses) -> tuple[list[dict[str, Any]], list[MediaSource]]:
    split = split_inline(messages, senses)
    return split, find_sources(split, senses)


def _plain(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is nothing but text, as nearly always, so that no thread is needed to see it."""
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            if "<image>" in content or "<audio>" in content:
                return False
        elif (
            isinstance(content, list)
            and not all(
                isinstance(part, Mapping) and part.get("type") in ("text", "thinking", "refusal") for part in content
            )
        ) or (
            isinstance(content, list)
            and any(
                "<image>" in text or "<audio>" in text for part in content if isinstance(text := part.get("text"), str)
            )
        ):
            return False
    return True
