"""Looks up files of the store for whoever was given an id."""

from __future__ import annotations

from ostro.core.errors import InvalidRequestError
from ostro.server.context import ServerContext
from ostro.storage.files import FileRecord, FileStore


class FileNotFoundHereError(InvalidRequestError):
    """No such file, not any more, or another key's."""

    status = 404
    code = "file_not_found"


async def find_file(context: ServerContext, file_id: str, owner: str, *, param: str = "file_id") -> FileRecord:
    """Raises FileNotFoundHereError, for somebody else's too."""
    record = await FileStore(context.database).find(file_id, owner)
    if record is None:
        raise FileNotFoundHereError(f"There is no file '{file_id[:100]}' here.", param=param)
    return record
