"""Frames: round trips, bounds, and what is no frame."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading

import pytest

from ostro.core.errors import EngineDeadError, LinkError, NotReadyError, OstroError, PromptTooLongError, QueueFullError
from ostro.core.request import EngineRequest, EngineStats, TokenLogprobs, TokensEvent
from ostro.core.sampling import SamplingParams
from ostro.link import channel as channels
from ostro.link.channel import EngineChannel, ProgramChannel
from ostro.link.messages import Abort, Events, Shutdown, Submit, WireError


def test_both_directions_carry_their_messages() -> None:
    ours, theirs = socket.socketpair()
    sent_up = Events(
        [TokensEvent(request_id="r", token_ids=[1], logprobs=[TokenLogprobs(1, -0.5, [(1, -0.5), (2, -1.5)])])],
        EngineStats(running=3, kv_usage=0.5),
    )
    # Larger than a socket buffer, so that the frame comes in pieces.
    params = SamplingParams(temperature=0.25, logit_bias={7: -100.0}, stop_token_ids=[2])
    big = Submit(EngineRequest(request_id="r", prompt_token_ids=list(range(500_000)), params=params, seed=2**62))
    got: list[object] = []

    def child() -> None:
        channel = EngineChannel(theirs)
        while (message := channel.receive()) is not None:
            got.append(message)
            if isinstance(message, Shutdown):
                channel.send(sent_up)
        channel.close()

    async def parent() -> None:
        channel = await ProgramChannel.over(ours)
        for message in (big, Abort("r"), Shutdown()):
            channel.send(message)
        assert await channel.receive() == sent_up
        await channel.close()

    thread = threading.Thread(target=child)
    thread.start()
    asyncio.run(parent())
    thread.join(10)
    assert len(got) == 3
    assert isinstance(got[0], Submit)
    assert got[0].request.prompt_token_ids[-1] == 499_999
    assert got[0].request.params.logit_bias == {7: -100.0}
    assert got[1:] == [Abort("r"), Shutdown()]


@pytest.mark.parametrize(
    "junk",
    [
        struct.pack(">I", channels.MAX_FRAME_BYTES + 1),
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        struct.pack(">I", 1) + b"\x80",  # a map without a tag
    ],
)
def test_what_is_no_message_is_refused_on_both_ends(junk: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(junk)
        channel = EngineChannel(theirs)
        with pytest.raises(LinkError):
            channel.receive()
        channel.close()

    async def parent() -> None:
        left, right = socket.socketpair()
        with right:
            right.sendall(junk)
            program = await ProgramChannel.over(left)
            with pytest.raises(LinkError):
                await program.receive()
            await program.close()

    asyncio.run(parent())


def test_a_frame_cut_short_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(struct.pack(">I", 100) + b"half")
    channel = EngineChannel(theirs)
    assert channel.receive() is None
    channel.close()


def test_oversized_messages_are_refused_before_they_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "MAX_FRAME_BYTES", 64)
    with pytest.raises(LinkError, match="64"):
        channels.encode_frame(Abort("x" * 100))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (QueueFullError("full", retry_after=7.0), QueueFullError),
        (EngineDeadError("dead", retry_after=2.0), NotReadyError),
        (PromptTooLongError(9, 1, 8), OstroError),
        (ValueError("bug"), OstroError),
    ],
)
def test_errors_keep_what_an_answer_needs(error: Exception, kind: type[OstroError]) -> None:
    again = WireError.of(error).rebuild()
    assert isinstance(again, kind)
    if isinstance(error, OstroError):
        assert (again.message, again.code, again.param, again.status) == (
            error.message,
            error.code,
            error.param,
            error.status,
        )
        assert getattr(again, "retry_after", None) == getattr(error, "retry_after", None)
    else:
        assert again.message == "ValueError: bug"
