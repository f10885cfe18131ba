"""Frames on a local stream socket: four bytes of length, big-endian, then one msgpack message."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import TypeVar

import msgspec

from ostro.core.errors import LinkError
from ostro.link.messages import FromEngine, ToEngine

# Half an hour of sound takes 92 MB as an encoder wants it.
MAX_FRAME_BYTES = 128 * 1024 * 1024

_LENGTH = struct.Struct(">I")
_ENCODER = msgspec.msgpack.Encoder()
_TO_ENGINE: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_FROM_ENGINE: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)

Message = TypeVar("Message")


def encode_frame(message: ToEngine | FromEngine) -> bytes:
    """The bytes of one frame. Raises LinkError for a message over MAX_FRAME_BYTES."""
    body = _ENCODER.encode(message)
    _check_length(len(body))
    return _LENGTH.pack(len(body)) + body


class EngineChannel:
    """The engine's end: blocking. One thread may receive while others send."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb")
        self._sending = threading.Lock()

    def send(self, message: FromEngine) -> None:
        """Raises OSError where the other end is gone."""
        frame = encode_frame(message)
        with self._sending:
            self._connection.sendall(frame)

    def receive(self) -> ToEngine | None:
        """The next message; None where the other end is gone. Raises LinkError for what is no message."""
        header = self._stream.read(_LENGTH.size)
        if len(header) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(header)
        _check_length(length)
        body = self._stream.read(length)
        return None if len(body) < length else _decode(_TO_ENGINE, body)

    def close(self) -> None:
        self._stream.close()
        self._connection.close()


class ProgramChannel:
    """The program's end: asyncio."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connection: socket.socket) -> ProgramChannel:
        return cls(*await asyncio.open_connection(sock=connection))

    def send(self, message: ToEngine) -> None:
        """Hand a message to the event loop at once. Does nothing where the other end is gone: reading tells."""
        frame = encode_frame(message)
        if not self._writer.is_closing():
            self._writer.write(frame)

    async def receive(self) -> FromEngine | None:
        """The next message; None where the other end is gone. Raises LinkError for what is no message."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            _check_length(length)
            body = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return _decode(_FROM_ENGINE, body)

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return  # Closing what the other end has already broken is no news.


def _check_length(length: int) -> None:
    if length > MAX_FRAME_BYTES:
        raise LinkError(f"A message of {length} bytes is over the channel's limit of {MAX_FRAME_BYTES} bytes.")


def _decode(decoder: msgspec.msgpack.Decoder[Message], body: bytes) -> Message:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise LinkError(f"A frame on the engine channel is not a message: {error}") from error
