"""How media are laid out among tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ostro.core.media import Grid, MediaInput
from ostro.tokenizer.turns import Turn, indefinite, refusal

IMAGE_MARKS = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
SOUND_MARKS = ("[AUDIO]", "[BEGIN_AUDIO]")
SERIES_MARKS = ("[SERIES]",)
MARKS = (*IMAGE_MARKS, *SOUND_MARKS, *SERIES_MARKS)


def image_tokens(grid: Grid, specials: Mapping[str, int]) -> list[int]:
    """Rows of places with a break behind each, the last of them the end. specials: ids by name."""
    rows, columns = grid
    tokens = ([specials["[IMG]"]] * columns + [specials["[IMG_BREAK]"]]) * rows
    tokens[-1] = specials["[IMG_END]"]
    return tokens


def sound_tokens(grid: Grid, specials: Mapping[str, int]) -> list[int]:
    return [specials["[BEGIN_AUDIO]"]] + [specials["[AUDIO]"]] * (grid[0] * grid[1])


def series_tokens(grid: Grid, specials: Mapping[str, int]) -> list[int]:
    return [specials["[SERIES]"]] * (grid[0] * grid[1])


def laid_out(media: MediaInput, specials: Mapping[str, int]) -> list[int]:
    """The tokens of one input, by its sense. Raises KeyError for a mark that the vocabulary has not."""
    lay_out = {"image": image_tokens, "audio": sound_tokens, "series": series_tokens}[media.modality]
    return lay_out(media.grid, specials)


def require_places(turns: Sequence[Turn], placeholders: Mapping[str, int], version: str) -> None:
    """Raises InvalidRequestError for media that the template has no place for."""
    for modality in dict.fromkeys(media.modality for turn in turns for media in turn.media):
        if modality not in placeholders:
            raise refusal(f"This model's chat template ({version}) has no place for {indefinite(modality)}.")
