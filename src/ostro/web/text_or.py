"""Fields that hold a text, or something else in its place."""

from __future__ import annotations

from pydantic import Discriminator, Tag


def _kind(value: object) -> str:
    return "Text" if isinstance(value, str) else "Other"


# Told apart by whether it is a text, so that an error is about the one that was meant. The tags are no part of a
# field's path: that has lower-case names only.
TEXT = Tag("Text")
OTHER = Tag("Other")
TextOr = Discriminator(_kind)
