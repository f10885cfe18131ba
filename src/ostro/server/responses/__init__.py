"""`/v1/responses`: a conversation of items in, items and named events out, kept to be gone on from."""
