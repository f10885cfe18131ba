"""Where a node keeps what outlives a request: one database and a folder of files beside it. Torch-free."""

from ostro.storage.database import Database

__all__ = ["Database"]
