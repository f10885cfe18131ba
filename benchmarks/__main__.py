"""`python -m benchmarks`: every benchmark, each in a process of its own, and a Markdown table of the results.

Arguments are handed on (`--shape 1b`, `--rounds 3`); names, if any are given first, choose the benchmarks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

NAMES = (
    "decode",
    "prefill",
    "batch16",
    "uniform16",
    "streams",
    "http_streams",
    "http_cost",
    "http_nuisance",
    "constrained",
    "sessions",
    "prefix",
    "overhead",
    "linear",
)
# What the table has columns for, or what every line repeats.
COLUMNS = {"benchmark", "shape", "ratio", "ours", "peer", "unit", "peer_name", "machine"}


def run(name: str, arguments: list[str]) -> dict[str, Any]:
    """One benchmark's last line."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def row(result: dict[str, Any]) -> str:
    more = ", ".join(f"{key} {value}" for key, value in result.items() if key not in COLUMNS)
    cells = (
        f"`{result['benchmark']}`",
        result["shape"],
        f"{result['ours']:g}",
        f"{result['peer']:g}",
        result["unit"],
        f"**{result['ratio']:.2f}**",
        result["peer_name"],
        more,
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    arguments = sys.argv[1:]
    chosen = []
    while arguments and arguments[0] in NAMES:
        chosen.append(arguments.pop(0))
    if "--help" in arguments:
        print(__doc__)
        return
    results = []
    for name in chosen or NAMES:
        results.append(run(name, arguments))
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    print("Machine: " + ", ".join(f"{key} {value}" for key, value in results[0]["machine"].items()) + "\n")
    print("| benchmark | shape | ours | peer | unit | ratio | peer is | more |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for result in results:
        print(row(result))


if __name__ == "__main__":
    main()
