"""The operations that models are written in: one folder an op, each with a plain-PyTorch reference.

An op's `__init__` holds its face and chooses: native code where the tensors are on a CPU, of a type it knows
and need no gradient; the reference everywhere else.
"""
