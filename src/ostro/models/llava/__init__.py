"""Pixtral 12B in the Hugging Face layout, where its model type is that of LLaVA."""
