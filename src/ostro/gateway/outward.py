"""What callers are told of errors that are nobody's business but the operator's."""

from __future__ import annotations

import logging

from ostro.core.errors import NotReadyError, OstroError, StorageError

log = logging.getLogger("ostro.gateway")


class BooksAwayError(NotReadyError):
    """The gateway's store cannot be read or written."""

    code = "store_unavailable"


def outward(error: OstroError) -> OstroError:
    """The error as it is told. Those of the store name hosts and files, which the log is for."""
    if not isinstance(error, StorageError):
        return error
    log.error("%s", error.message)
    return BooksAwayError("The gateway cannot reach its books just now. Try again in a moment.", retry_after=2.0)
