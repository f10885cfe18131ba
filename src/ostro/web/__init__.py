"""What every HTTP face shares: wire types, errors, server-sent events, keys, limits. Torch-free."""
