"""Quantisation of one matrix at a time: pure mathematics, without models, files or recipes.

Suffixes of tensor names: O outputs, I inputs, G groups, S inputs of one group, N rows of a slice, T tokens.
"""
