"""From the images and sounds in a request's messages to what an engine takes: fetched, decoded, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ostro.core.errors import InvalidRequestError
from ostro.core.media import MediaInput
from ostro.media.parts import MediaSource, find_sources, put_back, read_source, split_inline
from ostro.media.senses import Senses
from ostro.web.fetching import MediaFetcher

# Decoding takes a core and, for a large image, hundreds of megabytes.
_AT_A_TIME = 2


class MediaReader:
    """fetcher: gets what clients send addresses of."""

    def __init__(self, fetcher: MediaFetcher) -> None:
        self._fetcher = fetcher
        self._decoding = asyncio.Semaphore(_AT_A_TIME)

    async def read(self, messages: Sequence[Mapping[str, Any]], senses: Senses) -> list[dict[str, Any]]:
        """Messages as a tokenizer takes them. Raises InvalidRequestError naming the field."""
        if _plain(messages):
            return [dict(message) for message in messages]
        split, sources = await asyncio.to_thread(_find, messages, senses)
        if not sources:
            return split
        # Equal media are read once, however often a conversation shows them.
        read: dict[tuple[bytes | None, str | None, str | None, str], MediaInput] = {}
        found: dict[tuple[int, int], MediaInput] = {}
        for source in sources:
            key = (source.data, source.url, source.declared, source.modality)
            if key not in read:
                read[key] = await self._read(source, senses)
            found[source.place] = read[key]
        return put_back(split, found)

    async def read_bytes(self, source: MediaSource, senses: Senses) -> MediaInput:
        """A source that is no part of a message. Raises InvalidRequestError naming its field."""
        return await self._read(source, senses)

    async def close(self) -> None:
        await self._fetcher.close()

    async def _read(self, source: MediaSource, senses: Senses) -> MediaInput:
        data, declared = source.data, source.declared
        if data is None:
            assert source.url is not None
            try:
                fetched = await self._fetcher.fetch(source.url)
            except InvalidRequestError as error:
                error.param = source.where
                raise
            data, declared = fetched.data, declared or fetched.declared
        async with self._decoding:
            return await asyncio.to_thread(read_source, source, data, declared, senses)


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
