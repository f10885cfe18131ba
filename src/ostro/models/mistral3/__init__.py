"""Mistral 3 (Small 3.x, Magistral, Ministral 3): a decoder behind an image encoder."""
