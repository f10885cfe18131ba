"""An engine process whose parent is gone ends, whatever state its pipes are in; and media cross once."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ostro.core.media import MediaInput, MediaSpan
from ostro.core.options import EngineOptions
from ostro.core.request import EngineRequest
from ostro.core.sampling import SamplingParams
from ostro.link.channel import MAX_FRAME_BYTES
from ostro.link.media import SharedMedia
from ostro.link.messages import Provide, Submit, Withdraw
from ostro.link.worker import _with_media

HERE = Path(__file__).parent


@pytest.mark.parametrize("last", [struct.pack(">I", MAX_FRAME_BYTES + 1), b"\0\0", struct.pack(">I", 9) + b"x"])
def test_the_process_ends_though_it_cannot_say_why(last: bytes) -> None:
    """Its parent was killed with the other end of stderr, in the middle of a message."""
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    options = msgspec.json.encode(EngineOptions(model="m", name="m")).decode()
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    with subprocess.Popen(
        [sys.executable, "-m", "fake_engine", "--fd", str(theirs.fileno()), "--options", options],
        pass_fds=[theirs.fileno()],
        stderr=write,
        env=environment,
    ) as process:
        theirs.close()
        os.close(write)
        assert ours.recv(1), "it has said that it is ready, so its reader is there"
        os.close(read)
        ours.sendall(last)
        ours.close()
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()


def media(value: float) -> MediaInput:
    return MediaInput.of("image", np.full((2, 2), value, np.float32), (1, 2))


def request(name: str, *inputs: MediaInput) -> EngineRequest:
    spans = [MediaSpan(2 * index, 2, one.digest, "image") for index, one in enumerate(inputs)]
    return EngineRequest(
        request_id=name,
        prompt_token_ids=[1] * 8,
        params=SamplingParams(),
        seed=0,
        spans=spans,
        media=list(inputs),
    )


def test_an_input_crosses_once_for_all_that_hold_it() -> None:
    shared, one, two = SharedMedia(1 << 20), media(1), media(2)
    assert shared.take(request("a", one)) == [Provide(one)]
    assert shared.take(request("b", one, two)) == [Provide(two)]
    assert shared.take(request("c", one)) == []
    assert shared.take(request("text")) == []
    assert shared.release("a") == []
    assert shared.release("text") == []
    assert shared.release("b") == [Withdraw(two.digest)]
    assert shared.release("b") == [], "a request ends once"
    assert shared.release("c") == [Withdraw(one.digest)]
    assert shared.take(request("d", one)) == [Provide(one)]
    shared.clear()
    assert shared.take(request("e", one)) == [Provide(one)], "another process has nothing"


def test_the_process_puts_inputs_back_into_requests() -> None:
    one, two = media(1), media(2)
    whole = request("a", one, two)
    sent = Submit(msgspec.structs.replace(whole, media=[]))
    assert _with_media(sent.request, {one.digest: one, two.digest: two, "x": media(3)}) == whole
    assert _with_media(request("t"), {one.digest: one}).media == []
