"""Voxtral (arXiv:2507.13264): a decoder behind Whisper's encoder."""
