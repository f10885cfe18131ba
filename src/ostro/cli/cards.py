"""Model cards: templates that a run's figures are filled into."""

from __future__ import annotations

from pathlib import Path

from ostro.core.errors import ConfigError


def read_card(path: Path) -> str:
    """Read before anything is trained. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The model card {path} cannot be read: {error.strerror}.", param="card") from error


def filled_card(card: str, figures: dict[str, float]) -> str:
    """Raises ConfigError for a place that no figure belongs in."""
    try:
        return card.format(**figures)
    except KeyError as error:
        raise ConfigError(
            f"The model card has a place for {error}, which is none of the figures in figures.json: "
            f"{', '.join(sorted(figures))}.",
            param="card",
        ) from error
