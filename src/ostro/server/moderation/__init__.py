"""The rules that text is moderated by where nothing better is set up. Torch-free; patterns and checksums only."""

from __future__ import annotations

from ostro.server.moderation.judge import MODEL, Judgement, judge

__all__ = ["MODEL", "Judgement", "judge"]
