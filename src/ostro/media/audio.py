"""Sounds from the bytes that clients send to the mel features that an encoder takes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from ostro.core.errors import InvalidRequestError, PromptTooLongError
from ostro.core.media import MediaInput
from ostro.media.audio_settings import AudioSettings, audio_settings
from ostro.media.mel import log_mel
from ostro.media.sound_formats import (
    FLAC,
    MP3,
    OPUS,
    VORBIS,
    WAV,
    check_whole,
    cut_off,
    flac_knows_its_length,
    mp3_knows_its_length,
    recognise,
)

__all__ = ["AudioSettings", "Sound", "audio_settings", "decode_audio", "read_audio", "read_sound"]

# Samples, all channels together, that are decoded at a time.
BLOCK_SAMPLES = 1 << 17
MIN_RATE, MAX_RATE = 4_000, 192_000
MAX_CHANNELS = 8
# Of all channels together, which take time however small the file is: an hour in stereo at 37 kHz, or 23 minutes at 96.
MAX_SAMPLES = 1 << 28
# Whole numbers of 32 bits written as floating point; beyond, the power of a frame would overflow.
MAX_AMPLITUDE = 2.0**31
# Encoders of mp3 count the frame that tells the number of frames, or do not, and cut what they padded, or do not.
MP3_SLACK = 4 * 1152
CONTAINERS = {WAV: ("WAV", "WAVEX"), FLAC: ("FLAC",), MP3: ("MP3",), VORBIS: ("OGG",), OPUS: ("OGG",)}


@dataclass(frozen=True)
class Sound:
    """A sound as an encoder takes it. seconds: how long it is, without what it was padded with."""

    media: MediaInput
    seconds: float


def read_sound(data: bytes, settings: AudioSettings, *, declared: str | None = None, room: int | None = None) -> Sound:
    """A sound file -> float32 [chunks, mel_bins, frames], its placeholders as mistral-common counts them, its length.

    declared: a MIME type or the name of a format, as the client sent it. room: most tokens that it may be. Raises
    InvalidRequestError, PromptTooLongError before anything is decoded where the file tells how long it is.
    """
    samples = decode_audio(data, settings, declared=declared, room=room)
    tokens = settings.tokens(len(samples))
    media = MediaInput.of("audio", log_mel(samples, settings, tokens), (1, tokens))
    return Sound(media, len(samples) / settings.sampling_rate)


def read_audio(
    data: bytes, settings: AudioSettings, *, declared: str | None = None, room: int | None = None
) -> MediaInput:
    """`read_sound` for those who need no length."""
    return read_sound(data, settings, declared=declared, room=room).media


def decode_audio(
    data: bytes, settings: AudioSettings, *, declared: str | None = None, room: int | None = None
) -> np.ndarray:
    """A sound file, wav, flac, mp3 or ogg -> float32 [N] at the settings' rate: channels averaged, then resampled as
    mistral-common does.

    What the header says is looked at before anything is decoded, and what is decoded is counted: memory is that of
    `max_seconds` of sound at most. Raises InvalidRequestError for anything but a whole sound of that length at most,
    PromptTooLongError for more tokens than there is room for.
    """
    found = recognise(data, declared)
    check_whole(data, found)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            samples = _decode(sound, data, found, settings, room)
    except soundfile.SoundFileError:
        raise cut_off(found) from None
    if not len(samples):
        raise InvalidRequestError("The sound has no samples.")
    return samples


def _decode(
    sound: soundfile.SoundFile, data: bytes, found: str, settings: AudioSettings, room: int | None
) -> np.ndarray:
    if sound.format not in CONTAINERS[found]:
        raise cut_off(found)
    if not MIN_RATE <= sound.samplerate <= MAX_RATE:
        raise InvalidRequestError(
            f"The sound has {sound.samplerate} samples a second; from {MIN_RATE} to {MAX_RATE} can be read."
        )
    if not 1 <= sound.channels <= MAX_CHANNELS:
        raise InvalidRequestError(f"The sound has {sound.channels} channels; up to {MAX_CHANNELS} can be read.")
    if found == FLAC and not flac_knows_its_length(data):
        raise InvalidRequestError(
            "The sound is flac that does not tell its length, as is written into a pipe. Write it to a file, or send "
            "it as wav, mp3 or ogg."
        )
    # An mp3 without that frame is measured by its first frames; silence at its beginning would make hours of it.
    told = sound.frames if found != MP3 or mp3_knows_its_length(data) else None
    limit = int(settings.max_seconds * sound.samplerate)
    if told is not None and told > limit:
        raise _too_long(f"{told / sound.samplerate:.0f} seconds long", settings)
    sure = (told or 0) - (MP3_SLACK if found == MP3 else 0)
    if room is not None and sure > 0:
        # Resampled, it may be a sample shorter.
        least = settings.tokens(max(1, sure * settings.sampling_rate // sound.samplerate - 1))
        if least > room:
            raise PromptTooLongError(least, None, room, at_least=True)
    if sure * sound.channels > MAX_SAMPLES:
        raise _too_many(sound)
    resampler = None
    if sound.samplerate != settings.sampling_rate:
        resampler = soxr.ResampleStream(sound.samplerate, settings.sampling_rate, 1, dtype="float32", quality="HQ")
    pieces, count = [], 0
    for mono in _blocks(sound):
        count += len(mono)
        if count > limit:
            raise _too_long(f"longer than {settings.max_seconds:g} seconds", settings)
        if count * sound.channels > MAX_SAMPLES:
            raise _too_many(sound)
        pieces.append(mono if resampler is None else resampler.resample_chunk(mono))
    if count < sure:
        raise cut_off(found)
    if resampler is not None:
        pieces.append(resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)


def _blocks(sound: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """float32 [N] each, until the end."""
    rows = max(BLOCK_SAMPLES // sound.channels, 1)
    while len(block := sound.read(rows, dtype="float32", always_2d=True)):
        if not np.isfinite(block).all():
            raise InvalidRequestError("The sound has samples that are not numbers (NaN or infinity).")
        if max(block.max(), -block.min()) > MAX_AMPLITUDE:
            raise InvalidRequestError("The sound has samples beyond 2^31; those of floating point are from -1 to 1.")
        yield block[:, 0] if sound.channels == 1 else block.mean(axis=1)


def _too_many(sound: soundfile.SoundFile) -> InvalidRequestError:
    return InvalidRequestError(
        f"The sound has more than {MAX_SAMPLES} samples, at {sound.samplerate} a second in each of {sound.channels} "
        "channels. Send it in parts, in mono or at a lower rate."
    )


def _too_long(what: str, settings: AudioSettings) -> InvalidRequestError:
    return InvalidRequestError(
        f"The sound is {what}; up to {settings.max_seconds:g} seconds can be heard. Send it in parts."
    )
