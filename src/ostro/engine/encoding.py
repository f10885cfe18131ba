"""Runs a model's encoders piece by piece, so that streams go on while a long sound or a large image is encoded."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ostro.core.media import MediaInput
from ostro.models.layers.decoder import Decoder
from ostro.models.layers.encoder import BATCH_ROWS, Work

NOT_FINITE = (
    "What the model's encoder made of the {modality} is not finite (NaN or infinity). Its weights are damaged or its "
    "dtype is too narrow; try dtype='float32', or another checkpoint."
)


@dataclass
class _Job:
    """Inputs of one sense that are encoded together."""

    inputs: list[MediaInput]
    work: Work[list[torch.Tensor]]


class EncoderRunner:
    """Outputs by digest, [tokens, D] each, until they are forgotten."""

    def __init__(self, model: Decoder) -> None:
        self._model = model
        self._waiting: list[MediaInput] = []
        self._job: _Job | None = None
        self._dropped: set[str] = set()
        self._outputs: dict[str, torch.Tensor] = {}

    def start(self, inputs: Iterable[MediaInput]) -> None:
        """Queue inputs. They are encoded by `advance`."""
        for media in inputs:
            if media.digest in self._dropped:  # It is being encoded still, and wanted again.
                self._dropped.remove(media.digest)
            else:
                self._waiting.append(media)

    def forget(self, digests: Iterable[str]) -> None:
        """Let go of outputs, and of work that nobody waits for."""
        for digest in digests:
            self._outputs.pop(digest, None)
            self._waiting = [one for one in self._waiting if one.digest != digest]
            if self._job is not None and any(one.digest == digest for one in self._job.inputs):
                self._dropped.add(digest)
        if self._job is not None and all(one.digest in self._dropped for one in self._job.inputs):
            self._job.work.close()
            self._job = None
            self._dropped.clear()

    def wait(self) -> None:
        """Until a device that works by itself has done what it was given: only then does time tell what it took."""
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)

    def rows(self, digest: str, start: int, stop: int) -> torch.Tensor:
        return self._outputs[digest][start:stop]

    def advance(self, seconds: float) -> dict[str, str]:
        """Work for so many seconds at most, but one piece at least; digests of what is finished, with an error each,
        which is empty where there is none."""
        deadline = time.perf_counter() + seconds
        finished: dict[str, str] = {}
        while self._job is not None or self._waiting:
            if self._job is None:
                self._job = self._next_job()
            begun = time.perf_counter()
            try:
                next(self._job.work)
            except StopIteration as end:
                finished |= self._take(self._job.inputs, end.value)
                self._job = None
            self.wait()
            now = time.perf_counter()
            if now + (now - begun) > deadline:  # One more would take as long as this one.
                break
        return finished

    def _next_job(self) -> _Job:
        """The first in the queue, and others of its sense that fit into a batch with it; a larger one is by itself."""
        first = self._waiting[0]
        encoder = self._model.encoder(first.modality)
        assert encoder is not None, "the engine checks"
        batch: list[MediaInput] = []
        rows = 0
        for media in self._waiting:
            cost = encoder.cost(media)
            if media.modality != first.modality or (batch and rows + cost > BATCH_ROWS):
                continue
            batch.append(media)
            rows += cost
        taken = {media.digest for media in batch}
        self._waiting = [media for media in self._waiting if media.digest not in taken]
        tensors = [torch.tensor(media.array(), device=self._model.device) for media in batch]
        return _Job(batch, encoder.encode(tensors))

    def _take(self, inputs: Sequence[MediaInput], outputs: Sequence[torch.Tensor]) -> dict[str, str]:
        finished = {}
        for media, output_ND in zip(inputs, outputs, strict=True):
            if media.digest in self._dropped:
                self._dropped.remove(media.digest)
                continue
            assert output_ND.shape == (media.tokens, self._model.config.hidden_size)
            if torch.isfinite(output_ND).all():
                # A copy: a part of a batch would keep all of it in memory.
                self._outputs[media.digest] = output_ND.clone()
                finished[media.digest] = ""
            else:
                finished[media.digest] = NOT_FINITE.format(modality=media.modality)
        return finished
