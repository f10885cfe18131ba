"""Fetching checkpoints from the Hugging Face hub or a mirror of it: one weight format, resumed, verified. Torch-free.

`pull.pull_model` is the whole job; `listing` reads what a repository holds, `selection` chooses what to fetch,
`endpoint` speaks HTTP, `mirrors` chooses where from, `transfer` brings one file.
"""
