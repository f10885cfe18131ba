"""Log-mel spectrograms as Whisper takes them (Radford et al. 2022, arXiv:2212.04356), in plain numpy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ostro.core.errors import ConfigError
from ostro.media.audio_settings import MAX_FREQUENCY, AudioSettings

# Frames of one block: what is in between the samples and the mel bands stays a few megabytes, however long a sound is.
BLOCK_FRAMES = 2048
# Power below which everything is silence, and how far below its loudest band a sound is heard, in powers of ten.
FLOOR = 1e-10
RANGE = 8.0


def log_mel(samples: np.ndarray, settings: AudioSettings, tokens: int) -> np.ndarray:
    """Samples [N] at the settings' rate -> float32 [chunks, mel_bins, frames], for so many tokens in all.

    As WhisperFeatureExtractor of transformers computes them: Hann windows around every hop_length-th sample, the ends
    mirrored; zeros behind the sound; values relative to the loudest band of the whole sound, not of a chunk.
    """
    chunks, hop, half = settings.chunks(tokens), settings.hop_length, settings.window_size // 2
    frames = tokens * settings.frames_per_token // chunks
    total = max(len(samples), chunks * frames * hop)
    padded = np.zeros(total + 2 * half, dtype=np.float32)
    padded[half : half + len(samples)] = samples
    padded[:half] = padded[half + 1 : 2 * half + 1][::-1]
    padded[half + total :] = padded[total - 1 : total - 1 + half][::-1]
    # Periodic, so that it is no symmetric window of that size.
    window = np.hanning(settings.window_size + 1)[:-1].astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, settings.window_size)[::hop]
    filters = mel_filters(settings)
    out = np.empty((chunks, settings.mel_bins, frames), dtype=np.float32)
    for chunk in range(chunks):
        for start in range(0, frames, BLOCK_FRAMES):
            stop = min(start + BLOCK_FRAMES, frames)
            spectrum = np.fft.rfft(windows[chunk * frames + start : chunk * frames + stop] * window, axis=1)
            power = spectrum.real**2 + spectrum.imag**2
            out[chunk, :, start:stop] = np.log10(np.maximum(power @ filters, FLOOR)).T
    np.maximum(out, out.max() - np.float32(RANGE), out=out)
    out += 4.0
    out /= 4.0
    return out


def mel_filters(settings: AudioSettings) -> np.ndarray:
    """float32 [window_size / 2 + 1, mel_bins]. Raises ConfigError for more bands than a window tells apart."""
    try:
        return _filters(1 + settings.window_size // 2, settings.mel_bins, settings.sampling_rate)
    except ValueError:
        raise ConfigError(
            f"A window of {settings.window_size} samples has too few frequencies for {settings.mel_bins} mel bands.",
            param="mel_bins",
        ) from None


@lru_cache(maxsize=8)
def _filters(frequencies: int, bins: int, rate: int) -> np.ndarray:
    # Imported here: it costs more than the rest of this module, and most models do not hear.
    from mistral_common.audio import mel_filter_bank

    return mel_filter_bank(frequencies, bins, 0.0, MAX_FREQUENCY, rate).astype(np.float32)
