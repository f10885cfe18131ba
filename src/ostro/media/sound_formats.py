"""Which format a sound's bytes are in, whether that is what was declared, and whether the bytes are all there."""

from __future__ import annotations

from ostro.core.errors import InvalidRequestError

WAV, FLAC, MP3, VORBIS, OPUS = "wav", "flac", "mp3", "ogg (vorbis)", "ogg (opus)"
READABLE = "wav, flac, mp3 and ogg (vorbis or opus) can be read"

# What people declare, without "audio/" and "x-", and what that may be.
DECLARED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("wav", "wave", "vnd.wave", "pn-wav"), (WAV,)),
    "flac": (FLAC,),
    **dict.fromkeys(("mp3", "mpeg", "mpga", "mpeg3", "mpeg-3"), (MP3,)),
    **dict.fromkeys(("ogg", "oga"), (VORBIS, OPUS)),
    "vorbis": (VORBIS,),
    "opus": (OPUS,),
}
UNDECLARED = ("", "application/octet-stream", "binary/octet-stream", "application/binary")

# Of the frame before an mp3 that tells its length: flags of the fields that it has.
_FRAMES, _BYTES = 1, 2
# Tags behind an mp3, which some count as part of it and others take away.
MP3_TAIL = 512

# Beginnings of what is sent by mistake, to say what it is.
FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x1aE\xdf\xa3", "a WebM or Matroska file"),
    (4, b"ftyp", "an MP4 file (m4a, mp4 or mov)"),
    (0, b"FORM", "an AIFF file"),
    (0, b".snd", "an AU file"),
    (0, b"caff", "a CAF file"),
    (0, b"RF64", "a wav file of 64 bits (RF64)"),
    (0, b"#!AMR", "an AMR file"),
    (0, b"MThd", "a MIDI file"),
    (8, b"AVI ", "an AVI video"),
    (0, b"OggS", "an Ogg file of another codec than vorbis and opus"),
    (0, b"<", "a text with markup"),
    (0, b"{", "a JSON text"),
)


def recognise(data: bytes, declared: str | None) -> str:
    """The format of a sound by its first bytes. declared: a MIME type or the name of a format, as the client sent it.

    Raises InvalidRequestError where it is none that can be read, or another than was declared.
    """
    found = _found(data)
    name = (declared or "").partition(";")[0].strip().lower()
    allowed = None
    if name not in UNDECLARED:
        allowed = DECLARED.get(name.removeprefix("audio/").removeprefix("application/").removeprefix("x-"))
        if allowed is None:
            raise InvalidRequestError(f"The sound was declared as {_shown(name)}, which is not supported; {READABLE}.")
    if found is None:
        what = next((kind for at, magic, kind in FOREIGN if data[at : at + len(magic)] == magic), None)
        was = "" if allowed is None else f" was declared as {_shown(name)}, but"
        is_ = "is no sound in a known format" if what is None else f"is {what}"
        raise InvalidRequestError(f"The sound{was} {is_}; {READABLE}." if data else "The sound is empty.")
    if allowed is not None and found not in allowed:
        raise InvalidRequestError(
            f"The sound was declared as {_shown(name)}, but its bytes are {found}. Declare what is sent, or send what "
            "is declared."
        )
    return found


def check_whole(data: bytes, found: str) -> None:
    """Raises InvalidRequestError where the file's own lengths say that bytes are missing at the end. flac has none; it
    tells while it is decoded."""
    cut = {WAV: _cut_wav, MP3: _cut_mp3, VORBIS: _cut_ogg, OPUS: _cut_ogg}.get(found)
    if cut is not None and cut(data):
        raise cut_off(found)


def cut_off(found: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The sound is cut off: it is {found} whose end is missing or damaged. Send the file whole."
    )


def mp3_knows_its_length(data: bytes) -> bool:
    """Whether the first frame is one that tells how many follow; without it a length is only guessed."""
    return _xing(data, _FRAMES) > 0


def flac_knows_its_length(data: bytes) -> bool:
    """Whether the header tells the number of samples, the low 36 bits of eight bytes of STREAMINFO."""
    return len(data) >= 26 and int.from_bytes(data[18:26], "big") & ((1 << 36) - 1) > 0


def _shown(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:40]}…")


def _found(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return WAV
    if data[:4] == b"fLaC":
        return FLAC
    if data[:4] == b"OggS" and len(data) > 27:
        packet = data[27 + data[26] :]
        return VORBIS if packet[:7] == b"\x01vorbis" else OPUS if packet[:8] == b"OpusHead" else None
    start = _after_id3(data)
    return MP3 if _begins_mp3_frame(data[start : start + 4]) else None


def _begins_mp3_frame(header: bytes) -> bool:
    """Eleven bits in a row, then a version, a layer, a bit rate and a sampling rate that exist. The layer of 0 is AAC,
    which shares the beginning."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return False
    version, layer, rate, sampling = header[1] & 0x18, header[1] & 0x06, header[2] & 0xF0, header[2] & 0x0C
    return version != 0x08 and layer != 0 and rate != 0xF0 and sampling != 0x0C


def _after_id3(data: bytes) -> int:
    """Where an mp3 begins behind its tag, whose size is four bytes of seven bits."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size


def _xing(data: bytes, field: int) -> int:
    """A field of the frame that encoders put before an mp3, behind its tag and flags; 0 where it is not there."""
    start = _after_id3(data)
    head = data[start : start + 256]
    at = max(head.find(b"Xing"), head.find(b"Info"))
    flags = int.from_bytes(head[at + 4 : at + 8], "big")
    if at < 0 or not flags & field:
        return 0
    at += 8 + (4 if field == _BYTES and flags & _FRAMES else 0)
    return int.from_bytes(head[at : at + 4], "big")


def _cut_mp3(data: bytes) -> bool:
    return _xing(data, _BYTES) > len(data) - _after_id3(data) + MP3_TAIL


def _cut_wav(data: bytes) -> bool:
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8
        if data[at - 8 : at - 4] == b"data":
            # What writes into a pipe does not know the size and says the largest, or nearly.
            return size < 0x7FFF0000 and at + size > len(data)
        at += size + size % 2
    return True


def _cut_ogg(data: bytes) -> bool:
    at = 0
    while at < len(data):
        if data[at : at + 4] != b"OggS"[: len(data) - at]:
            return False  # Something else behind the sound, or damage: for the decoder to say.
        lengths = data[at + 27 : at + 27 + data[at + 26]] if at + 26 < len(data) else b""
        if at + 26 >= len(data) or len(lengths) < data[at + 26]:
            return True
        at += 27 + len(lengths) + sum(lengths)
    return at > len(data)
