"""The text part: a dense decoder. The image part slots in beside it."""

from __future__ import annotations

from ostro.models.layers.decoder import Decoder

MODEL = Decoder
