"""Mistral 7B v0.1 to v0.3, Mistral-Nemo and every checkpoint of that shape."""
