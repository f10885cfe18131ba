"""Checkpoints: finding, fetching, reading and writing them, every tensor accounted for."""
