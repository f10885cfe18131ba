"""`ostro keys`: the keys of a gateway, in its store, whether it runs or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ostro.gateway.config import GatewayConfig
    from ostro.storage import Database

_Config = Annotated[Path, typer.Option("--config", help="The gateway's configuration.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    keys = typer.Typer(help="Keys of a gateway: make, list, revoke.", rich_markup_mode=None, no_args_is_help=True)
    example = "Example: ostro keys create --config gateway.yaml --name acme --tier commercial --budget 25"
    keys.command("create", epilog=example)(create)
    keys.command("list", epilog="Example: ostro keys list --config gateway.yaml")(list_)
    keys.command("revoke", epilog="Example: ostro keys revoke KEY_ID --config gateway.yaml")(revoke)
    app.add_typer(keys, name="keys")


def create(
    config: _Config,
    name: Annotated[str, typer.Option(help="For people to know it by.")],
    tier: Annotated[str, typer.Option(help="A tier of the configuration.")],
    tenant: Annotated[str | None, typer.Option(help="Whose it is; keys of one tenant share usage. The name's.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may also administer the gateway.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="It may read /metrics, which tell of all tenants.")] = False,
    model: Annotated[list[str] | None, typer.Option(help="A model that it may use; may be repeated. All.")] = None,
    region: Annotated[str | None, typer.Option(help="Where its data must stay.")] = None,
    budget: Annotated[str | None, typer.Option(help="US dollars that it may spend in all.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Instead of its tier's.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Instead of its tier's.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Calls at a time, instead of its tier's.")] = None,
    expires_in_days: Annotated[float | None, typer.Option(help="Days from now.")] = None,
    as_json: _Json = False,
) -> None:
    """Make a key. It is shown once: only its digest is kept."""
    from ostro.gateway.admin import WantedKey, key_record
    from ostro.storage.keys import create_key

    wanted = WantedKey(
        name=name,
        tier=tier,
        tenant=tenant,
        admin=admin,
        watches=watch,
        models=model or None,
        region=region,
        budget_usd=budget,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrency=concurrency,
        expires_in_s=None if expires_in_days is None else expires_in_days * 86_400,
    )
    with _store(config) as (settings, database):
        checked = wanted.checked(frozenset(settings.tiers))
        secret, key = database.write_now(lambda connection: create_key(connection, checked))
    if as_json:
        typer.echo(json.dumps({"key": secret, **key_record(key)}))
        return
    typer.echo(secret)
    typer.echo(f"This is the key of {key.name!r} ({key.id}). Keep it: it is not shown again.", err=True)


def list_(config: _Config, as_json: _Json = False) -> None:
    """List keys, with what they have spent."""
    from ostro.gateway.admin import key_record
    from ostro.storage.keys import list_keys

    with _store(config) as (_, database):
        records = [key_record(key) for key in database.read_now(list_keys)]
    if as_json:
        typer.echo(json.dumps(records))
        return
    if not records:
        typer.echo("There are no keys. `ostro keys create` makes one.", err=True)
    for record in records:
        typer.echo(_line(record))


def revoke(
    config: _Config,
    key_id: Annotated[str, typer.Argument(help="Its id, as `ostro keys list` shows it: not the key itself.")],
) -> None:
    """Revoke a key, for ever. Calls that run end as they would have."""
    from ostro.core.errors import InvalidRequestError
    from ostro.storage.keys import revoke_key

    with _store(config) as (_, database):
        key = database.write_now(lambda connection: revoke_key(connection, key_id))
    if key is None:
        raise InvalidRequestError(f"There is no key '{key_id[:12]}…'. `ostro keys list` shows their ids.")
    typer.echo(f"{key.id} ({key.name}) is revoked.")


@contextmanager
def _store(config: Path) -> Iterator[tuple[GatewayConfig, Database]]:
    """The store of a gateway. Its nodes' own keys are not needed here."""
    from ostro.gateway.config import read_config
    from ostro.storage import Database

    settings = read_config(config, needs_keys=False)
    database = Database(settings.store, servers=True, option="store")
    try:
        yield settings, database
    finally:
        database.close()


def _line(record: dict[str, Any]) -> str:
    state = "revoked" if record["revoked_at"] is not None else "admin" if record["admin"] else "active"
    budget = "no budget" if record["budget_usd"] is None else f"of ${record['budget_usd']}"
    spent = f"${record['spent_usd']} {budget}"
    return f"{record['id']}  {record['hint']}…  {record['tier']:<12} {state:<8} {spent:<24} {record['name']}"
