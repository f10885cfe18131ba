"""Mistral 3 (Small 3.x, Magistral, Ministral 3 with images): its text part."""
