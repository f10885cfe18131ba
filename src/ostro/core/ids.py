"""Request and object identifiers."""

from __future__ import annotations

import secrets
import string

_ALPHANUMERIC = string.ascii_letters + string.digits


def new_id(prefix: str) -> str:
    """A fresh identifier such as `chatcmpl-3f…` with 96 random bits."""
    return f"{prefix}-{secrets.token_hex(12)}"


def new_tool_call_id() -> str:
    """Nine alphanumerics, the only shape that Mistral's templates accept."""
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(9))
