"""What every other package may build on: errors, ids, events, protocols and wire types. Torch-free."""
