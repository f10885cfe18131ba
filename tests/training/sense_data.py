"""Tiny data of each sense, made here: a zip of photos, a zip of sounds, and what a model takes of them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from ostro.media.audio_settings import AudioSettings
from ostro.media.image import ImageSettings
from ostro.media.senses import Senses
from ostro.media.series import SeriesSettings
from ostro.models.config import DecoderConfig
from ostro.tokenizer.mistral import TekkenTokenizer
from ostro.training.data import Question
from ostro.training.recipe import Customers
from ostro.training.senses.digits import Utterance
from ostro.training.senses.photos import Photos
from ostro.training.senses.tasks import Manner, Material, Tasks
from ostro.training.tokenizer import train_tekken, write_tekken

CLASSES = ("airplane", "bird", "cat", "deer", "dog")
SENSES = Senses(
    ImageSettings(8, 64), AudioSettings(mel_bins=16, chunk_seconds=None, frame_rate=25.0), SeriesSettings(4, 4, 256)
)
CUSTOMERS = Customers(word_dropout=0.1, typos=0.05, follow_up=0.2, system=0.3)
SHARES = {
    "photo": 1.0,
    "scene": 2.0,
    "told_scene": 1.0,
    "digit": 1.0,
    "transcription": 1.0,
    "same": 1.0,
    "told_same": 1.0,
    "series": 1.0,
    "intent": 1.0,
    "text": 1.0,
}


def photo_array(seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write_photos(path: Path, each: int = 20, side: int = 16) -> Path:
    """Two classes of JPEGs, beside what is no photo."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README.txt", "no photo")
        for number, name in enumerate(("dog", "cat")):
            for index in range(each):
                out = io.BytesIO()
                Image.fromarray(photo_array(1000 * number + index, side)).save(out, "JPEG", quality=95)
                archive.writestr(f"{name}/{index:04d}.jpg", out.getvalue())
    return path


def spoken(seed: int, seconds: float = 0.3, rate: int = 8000) -> np.ndarray:
    at = np.arange(int(seconds * rate)) / rate
    pitch = 200 + 50 * (seed % 40)
    hiss = np.random.default_rng(seed).normal(0, 0.01, len(at))
    return (0.4 * np.sin(2 * np.pi * pitch * at) * np.hanning(len(at)) + hiss).astype(np.float32)


def write_digits(path: Path, takes: range = range(5, 15)) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("LICENSE", "none")
        for digit in (3, 7):
            for speaker in ("ann", "bob"):
                for take in takes:
                    out = io.BytesIO()
                    soundfile.write(out, spoken(digit * 100 + take), 8000, format="WAV", subtype="PCM_16")
                    archive.writestr(f"{digit}_{speaker}_{take}.wav", out.getvalue())
    return path


def material(seed: int = 0, side: int = 16, customers: Customers = CUSTOMERS) -> Material:
    """All senses, without files."""
    labels = np.arange(40) % len(CLASSES)
    photos = Photos(np.stack([photo_array(seed + i, side) for i in range(40)]), labels, CLASSES)
    utterances = [
        Utterance(str(i % 10), "ann", 10 + i, spoken(seed + i, 0.2 + 0.01 * i, rate=16_000)) for i in range(20)
    ]
    asked = [(f"where is my {word} number {i}", f"{word}_lost") for word in ("card", "pin") for i in range(9)]
    questions = [Question(text, label) for text, label in asked]
    text = "The quality of mercy is not strained,\nit droppeth as the gentle rain.\n" * 40
    return Material(SENSES, photos=photos, utterances=utterances, questions=questions, text=text, customers=customers)


def training_tasks(seed: int = 0, shares: dict[str, float] | None = None, side: int = 16) -> Tasks:
    return Tasks(material(side=side), shares or SHARES, seed=seed, manner=Manner(training=True))


def tiny_decoder(hidden: int = 32, intermediate: int = 48, layers: int = 2) -> DecoderConfig:
    """The dense part of a unified decoder, with the vocabulary of `write_tokenizer`."""
    return DecoderConfig(
        architecture="ostro",
        vocab_size=340,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        max_position_embeddings=1024,
        windows=(0,) * layers,
        tie_word_embeddings=True,
    )


def write_tokenizer(folder: Path) -> TekkenTokenizer:
    texts = ["describe this image, what is it", "描述这张图片 说的是哪个数字", "no, it is the spoken digit"] * 5
    return TekkenTokenizer.load(write_tekken(train_tekken(texts, vocab_size=340, num_special=40), folder))
