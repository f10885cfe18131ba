"""The model family, written once: shared layers, and a folder an architecture with its config and names."""
