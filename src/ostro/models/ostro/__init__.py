"""Ostro's own architecture: text, images, sounds and series through one decoder (docs/architecture-ostro.md)."""
