"""The layers that every architecture of the family is put together from."""
