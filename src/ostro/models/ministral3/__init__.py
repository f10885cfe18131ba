"""Ministral 3 (3B, 8B, 14B): YaRN, llama-4 query scaling, tied or separate head."""
