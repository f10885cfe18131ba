"""Sockets to listen on."""

from __future__ import annotations

import socket

from ostro.core.errors import ConfigError


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError where the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host} port {port}: {error.strerror or error}. Choose others with --host and --port.",
            param="port",
        ) from error


def url_of(host: str, port: int) -> str:
    """What people open for it."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - what is shown, not bound
    return f"http://{shown}:{port}"
