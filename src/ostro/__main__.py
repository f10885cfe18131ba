"""`python -m ostro` is `ostro`."""

from __future__ import annotations

from ostro.cli import main

main()
