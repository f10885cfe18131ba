"""Many nodes behind one face: routing, keys, money, limits, cache. Torch-free."""
