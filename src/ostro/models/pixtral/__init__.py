"""Pixtral's image encoder (arXiv:2410.07073): the eye of Pixtral, Mistral 3 and their relatives."""
