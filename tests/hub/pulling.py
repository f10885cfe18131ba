"""What the pull tests share: the repository's names, a watcher and a pull from one fake hub."""

from __future__ import annotations

import os

from hub.fake_hub import FakeHub
from ostro.weights.hub.pull import PullRequest, PullResult, pull_model
from ostro.weights.hub.transfer import Patience

REPO = "mistralai/Mistral-7B-v0.3"
SHARD_1, SHARD_2 = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SIZE = 700_000
QUICK = Patience(attempts=3, backoff_s=0.01)


class Watch:
    """Records what a pull tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.total = self.fresh = self.reused = 0

    def say(self, line: str) -> None:
        self.lines.append(line)

    def begin(self, total: int) -> None:
        self.total = total

    def advance(self, size: int, reused: bool) -> None:
        self.fresh += 0 if reused else size
        self.reused += size if reused else 0

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def pull(hub: FakeHub, name: str = REPO, *, watch: Watch | None = None, **options: object) -> PullResult:
    os.environ["HF_ENDPOINT"] = hub.url
    request = PullRequest(name=name, patience=QUICK, **options)  # type: ignore[arg-type]  # the stand-in has any shape
    return pull_model(request, watch or Watch())
