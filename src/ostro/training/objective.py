"""The loss: weighted next-token cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ostro.core.errors import TrainingError
from ostro.models.layers.context import DenseContext
from ostro.models.layers.decoder import Decoder
from ostro.training.batches import Batch


def next_token_loss(
    model: Decoder, batch: Batch, *, dropout: float = 0.0, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy (nats) over targets of positive weight, weighted. Logits are computed for those rows only.

    Raises TrainingError for a batch that has none: it would train on nothing, silently.
    """
    counted_N = batch.weights_T.nonzero()[:, 0]
    if not len(counted_N):
        shown = "".join("1" if weight > 0 else "0" for weight in batch.weights_T[:80].tolist())
        raise TrainingError(
            f"A batch of {len(batch.weights_T)} tokens has no target: its loss mask is all zero ({shown}…). Check that "
            "the data has answers, and that they are not masked."
        )
    hidden_TD = model(batch.inputs_T, batch.positions_T, DenseContext(batch.rows, dropout, batch.segments_T))
    logits_NV = model.logits(hidden_TD[counted_N]).float()
    losses_N = F.cross_entropy(logits_NV, batch.targets_T[counted_N], reduction="none", label_smoothing=label_smoothing)
    weights_N = batch.weights_T[counted_N]
    return (losses_N * weights_N).sum() / weights_N.sum()
