"""The dense decoder; the image encoder comes with its config."""

from __future__ import annotations

from ostro.models.layers.decoder import Decoder

MODEL = Decoder
