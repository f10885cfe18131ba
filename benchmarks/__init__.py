"""Measurements against peers: `python -m benchmarks.NAME --json`. Ratios come from one run, sides interleaved."""
