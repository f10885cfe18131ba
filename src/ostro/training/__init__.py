"""Training: one deterministic, resumable loop, and what feeds it. Uses the very model code that serves."""
