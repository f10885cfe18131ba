"""`ostro gateway`: many nodes behind one endpoint."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    app.command("gateway", epilog="Example: ostro gateway --config gateway.yaml --port 9000")(gateway)


def gateway(
    config: Annotated[Path, typer.Option(help="Its nodes, tiers and limits, in YAML; docs/gateway.md describes it.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 9000,
    grace: Annotated[float, typer.Option(min=0.0, help="Seconds that running calls get on SIGTERM or Ctrl-C.")] = 30.0,
) -> None:
    """Serve many nodes behind one endpoint, with keys, prices, limits and a ledger. `ostro keys create` makes keys."""
    from ostro.gateway.app import Gateway
    from ostro.gateway.config import read_config
    from ostro.gateway.run import serve_gateway
    from ostro.web.hosts import is_loopback
    from ostro.web.listening import bind, url_of

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("ostro").setLevel(logging.INFO)
    settings = read_config(config)
    listener = bind(host, port)
    url = url_of(host, listener.getsockname()[1])
    app = Gateway(settings, loopback_only=is_loopback(host))

    def announce() -> None:
        nodes = ", ".join(node.name for node in settings.settings.nodes)
        typer.echo(f"Ostro's gateway is ready: {url}")
        typer.echo(f"  nodes  {nodes}")
        typer.echo(f"  API under {url}/v1   Ctrl-C stops")

    try:
        serve_gateway(app, listener, grace_s=grace, on_ready=announce)
    finally:
        listener.close()
