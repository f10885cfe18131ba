"""What a node reads of media before it knows whether a model's context holds them."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import soundfile
from PIL import Image

from ostro.core.errors import InvalidRequestError, PromptTooLongError
from ostro.media import audio
from ostro.media.audio_settings import AudioSettings
from ostro.media.image import ImageSettings
from ostro.media.parts import MediaSource
from ostro.media.senses import Senses
from ostro.server import media_reading
from ostro.server.media_reading import MediaReader
from ostro.web.fetching import Fetched, MediaFetcher

SENSES = Senses(ImageSettings(16, 64))
BYTES = 3 * 64 * 64 * 4  # of one picture that was read


def picture(shade: int) -> dict[str, Any]:
    out = io.BytesIO()
    Image.new("L", (64, 64), shade).save(out, "PNG")
    return {"type": "image_url", "image_url": base64.b64encode(out.getvalue()).decode()}


def read(shades: Sequence[int]) -> list[dict[str, Any]]:
    """As a node does for a model that is not loaded, whose context it does not know."""
    reader = MediaReader(cast(MediaFetcher, None), {})
    messages = [{"role": "user", "content": [picture(shade) for shade in shades]}]
    return asyncio.run(reader.read(messages, SENSES, None))


def test_what_is_read_is_bounded_where_no_context_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files may hold large images. Equal ones are read once and count once."""
    monkeypatch.setattr(media_reading, "MAX_READ_BYTES", 3 * BYTES)
    assert len(read([1, 2, 3, 2, 1, 3])[0]["content"]) == 6
    with pytest.raises(InvalidRequestError, match="once they are read") as raised:
        read([1, 2, 1, 3, 4, 5])
    assert raised.value.param == "messages[0].content[4].image_url"
    assert raised.value.code == "too_many_media"


class SlowWeb:
    """A picture at every address, after a while; none at some."""

    def __init__(self) -> None:
        self.running = self.most = self.asked = self.cancelled = 0

    async def fetch(self, url: str) -> Fetched:
        self.asked += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.01 if "none" in url else 0.2)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if "none" in url:
            raise InvalidRequestError("There is nothing.")
        return Fetched(base64.b64decode(picture(len(url))["image_url"]), "image/png")


def fetch(web: SlowWeb, *urls: str) -> list[dict[str, Any]]:
    reader = MediaReader(cast(MediaFetcher, web), {"image": 10_000})
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return asyncio.run(reader.read([{"role": "user", "content": parts}], SENSES, None))


def test_addresses_are_fetched_side_by_side_and_once() -> None:
    web = SlowWeb()
    (message,) = fetch(web, "https://a.org/1", "https://a.org/22", "https://a.org/1", "https://a.org/333")
    assert (web.asked, web.most) == (3, 3)
    digests = [part["media"].digest for part in message["content"]]
    assert digests[0] == digests[2]
    assert len(set(digests)) == 3


def test_one_address_that_fails_ends_the_others() -> None:
    web = SlowWeb()
    with pytest.raises(InvalidRequestError, match="nothing") as raised:
        fetch(web, "https://a.org/1", "https://a.org/none", "https://a.org/22")
    assert raised.value.param == "messages[0].content[1].image_url.url"
    assert (web.cancelled, web.running) == (2, 0)


def test_one_request_leaves_turns_to_others_and_has_a_sum_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    web = SlowWeb()
    urls = [f"https://a.org/{'1' * count}" for count in range(1, 9)]
    fetch(web, *urls)
    assert (web.asked, web.most) == (8, 3)

    size = len(base64.b64decode(picture(0)["image_url"]))
    monkeypatch.setattr(media_reading, "MAX_FETCHED_BYTES", 2 * size)
    web = SlowWeb()
    with pytest.raises(InvalidRequestError, match="had fetched") as raised:
        fetch(web, *urls)
    assert raised.value.status == 413
    assert raised.value.code == "too_many_media"
    assert web.asked < 8
    assert web.running == 0


def test_few_conversations_are_read_at_a_time() -> None:
    """So that what they hold is bounded together."""
    web = SlowWeb()
    reader = MediaReader(cast(MediaFetcher, web), {"image": 10_000})

    async def everybody() -> None:
        def ask(number: int) -> Any:
            part = {"type": "image_url", "image_url": {"url": f"https://a.org/{'1' * number}"}}
            return reader.read([{"role": "user", "content": [part]}], SENSES, None)

        await asyncio.gather(*(ask(number) for number in range(1, 21)))

    asyncio.run(everybody())
    assert (web.asked, web.most) == (20, 8)


def test_who_waits_for_hosts_keeps_nobody_waiting_whose_pictures_are_there() -> None:
    class Silent(SlowWeb):
        async def fetch(self, url: str) -> Fetched:
            await asyncio.sleep(60)
            raise AssertionError

    reader = MediaReader(cast(MediaFetcher, Silent()), {})

    async def everybody() -> None:
        part = {"type": "image_url", "image_url": {"url": "https://a.org/1"}}
        waiting = [
            asyncio.create_task(reader.read([{"role": "user", "content": [part]}], SENSES, None)) for _ in range(20)
        ]
        await asyncio.sleep(0.05)
        await asyncio.wait_for(reader.read([{"role": "user", "content": [picture(3)]}], SENSES, None), 10)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(everybody())


def test_who_leaves_makes_no_room_for_more_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being decoded cannot be stopped: it takes its memory until it is done."""
    gate, lock = threading.Event(), threading.Lock()
    running, most = 0, 0

    def slow(*_: Any) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(10)
        with lock:
            running -= 1
        raise InvalidRequestError("It is over.")

    monkeypatch.setattr(media_reading, "read_source", slow)
    reader = MediaReader(cast(MediaFetcher, None), {})

    async def leavers() -> None:
        for shade in range(12):
            task = asyncio.create_task(reader.read([{"role": "user", "content": [picture(shade)]}], SENSES, None))
            await asyncio.sleep(0.03)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert (running, most) == (2, 2)
        gate.set()

    asyncio.run(leavers())


def test_a_sound_that_tells_how_long_it_is_is_not_decoded_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(16_000 * 60), 16_000, format="FLAC")
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(out.getvalue()).decode(), "format": "flac"}}
    senses = Senses(audio=AudioSettings(mel_bins=16))
    monkeypatch.setattr(audio, "_blocks", lambda _: pytest.fail("it was decoded"))
    reader = MediaReader(cast(MediaFetcher, None), {})
    for apart, param in ((False, "messages"), (True, "messages[0]")):
        with pytest.raises(PromptTooLongError, match="maximum context length is 100 tokens") as raised:
            asyncio.run(reader.read([{"role": "user", "content": [part]}], senses, 100, apart=apart))
        assert raised.value.param == param
    source = MediaSource((0, 0), "file", "audio", data=out.getvalue())
    with pytest.raises(PromptTooLongError) as raised:
        asyncio.run(reader.hear(source, senses, 100))
    assert raised.value.param == "file"
