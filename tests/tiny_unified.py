"""A random model of the unified architecture that sees, with everything switched on, as a checkpoint folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ostro.models.config import DecoderConfig
from ostro.models.ostro.config import AdapterConfig, GateConfig, LabelGroup, OstroConfig
from ostro.models.ostro.model import UnifiedDecoder
from ostro.models.ostro.stems import ConvConfig, StemConfig
from ostro.training.tokenizer import train_tekken, write_tekken
from ostro.weights.writer import save_checkpoint

VOCABULARY = 320
LABELS = (LabelGroup("photo", ("cat", "dog", "ship")), LabelGroup("digit", ("0", "1")))


def write_unified_model(folder: Path) -> None:
    torch.manual_seed(0)
    base = DecoderConfig(
        architecture="ostro",
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        max_position_embeddings=512,
        windows=(0, 0, 0),
        tie_word_embeddings=True,
    )
    stem = StemConfig("image", 3, (ConvConfig(16, 4, 4), ConvConfig(32, 3, pool=2)), 1, 2, 48, 10)
    fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)} | {"unrotated": 2}
    config = OstroConfig(
        **{**fields, "encoders": (stem,)},
        adapter=AdapterConfig(1, 8),
        gate=GateConfig(1, (32, 128), (0.0,)),
        routing=True,
        labels=LABELS,
        embedding=24,
    )
    model = UnifiedDecoder(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=0.15)
        assert model.label_head is not None
        assert model.label_head.bias is not None
        # Of the photos one always holds, of the digits none.
        model.label_head.bias.weight.copy_(torch.tensor([0.0, 0.0, 0.0, -20.0, 0.0, 0.0, 20.0]))
    save_checkpoint(model, folder, dtype=torch.float32)
    texts = ["once upon a time there was a river", "what is seen in the picture of the bridge"] * 5
    write_tekken(train_tekken(texts, vocab_size=VOCABULARY, num_special=44), folder)
