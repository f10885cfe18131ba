"""Ministral 8B (2410): sliding-window and full attention layers in turn."""
