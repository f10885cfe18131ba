"""The dense decoder as it is: nothing of this architecture is in its layers, all of it in its config."""

from __future__ import annotations

from ostro.models.layers.decoder import Decoder

MODEL = Decoder
