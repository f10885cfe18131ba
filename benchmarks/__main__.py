"""`python -m benchmarks`: every benchmark after the other, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    "decode",
    "prefill",
    "batch16",
    "uniform16",
    "streams",
    "sessions",
    "prefix",
    "overhead",
    "linear",
)

if __name__ == "__main__":
    for name in NAMES:
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)
