"""A tiny random Voxtral with a real tokenizer, and sounds for it: `hearing.py FOLDER CONTEXT` writes the model."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

VOCABULARY, SPECIAL = 320, 40
RATE = 16_000
# Chunks of 0.4 seconds, which are 40 frames and five tokens.
CHUNK_S, CHUNK_TOKENS = 0.4, 5
AUDIO_SECTION: dict[str, Any] = {
    "sampling_rate": RATE,
    "frame_rate": 12.5,
    "audio_encoding_config": {"num_mel_bins": 16, "hop_length": 160, "window_size": 400},
    "chunk_length_s": CHUNK_S,
}
# Where published tokenizers of models that hear have their control tokens.
PLACES = {"[AUDIO]": 24, "[BEGIN_AUDIO]": 25, "[TRANSCRIBE]": 34}
# Containers and codecs by the end of a file's name.
FORMATS: dict[str, tuple[str, str | None]] = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", None),
    "mp3": ("MP3", None),
    "ogg": ("OGG", "VORBIS"),
}


def write_hearing_model(folder: Path, context: int = 512) -> None:
    """context: in tokens."""
    import torch
    import transformers

    import tiny_checkpoints
    from ostro.training.tokenizer import train_tekken, write_tekken

    torch.manual_seed(0)
    text = {**tiny_checkpoints.SHAPE, "model_type": "llama", "head_dim": 16, "vocab_size": VOCABULARY}
    text["max_position_embeddings"] = context
    config = transformers.VoxtralConfig(text_config=text, audio_config=dict(tiny_checkpoints.AUDIO), audio_token_id=24)
    tiny_checkpoints.save(transformers.VoxtralForConditionalGeneration(config), folder)
    texts = ["once upon a time there was a river", "what is said of the bridge and the lang:en of it"] * 5
    content = train_tekken(texts, vocab_size=VOCABULARY, num_special=SPECIAL)
    content["special_tokens"] = _placed([token["token_str"] for token in content["special_tokens"]])
    write_tekken({**content, "audio": AUDIO_SECTION}, folder)


def _placed(names: list[str]) -> list[dict[str, Any]]:
    """Control tokens in their order, but those of `PLACES` where they are published; what is free has no meaning."""
    others = iter([name for name in names if name not in PLACES])
    of = {rank: name for name, rank in PLACES.items()}
    placed = [of.get(rank) or next(others, f"<SPECIAL_{rank}>") for rank in range(SPECIAL)]
    return [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(placed)]


def tones(seconds: float = 1.0, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """float32 [N], or [N, channels]: a few tones with noise, others for each seed and channel."""
    generator = np.random.default_rng(seed)
    at = np.arange(int(seconds * rate)) / rate
    columns = [
        sum(0.2 * np.sin(2 * np.pi * pitch * at) for pitch in generator.uniform(100, 3000, 3))
        + generator.normal(0, 0.01, len(at))
        for _ in range(channels)
    ]
    samples = np.stack(columns, axis=1).astype(np.float32)
    return samples[:, 0] if channels == 1 else samples


def sound(name: str = "wav", seconds: float = 1.0, rate: int = RATE, channels: int = 1, seed: int = 0) -> bytes:
    """The file of some tones."""
    file = io.BytesIO()
    kind, subtype = FORMATS[name]
    soundfile.write(file, tones(seconds, rate, channels, seed), rate, format=kind, subtype=subtype)
    return file.getvalue()


if __name__ == "__main__":
    write_hearing_model(Path(sys.argv[1]), int(sys.argv[2]))
