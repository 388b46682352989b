"""`innerloop migrate`, `keys` and `initializers`: the database, without the service. SQLAlchemy is imported when one of them runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.settings_options import DatabaseOption, HomeOption, load_settings

if TYPE_CHECKING:
    from app.admin import Admin

keys = typer.Typer(help="API keys: made, listed and ended.", no_args_is_help=True)
initializers = typer.Typer(help="The initializers in the database, by their current version.", no_args_is_help=True)


def register(cli: typer.Typer) -> None:
    """Adds the command and both groups to `cli`."""
    cli.command()(migrate)
    cli.add_typer(keys, name="keys")
    cli.add_typer(initializers, name="initializers")


def _load_admin(database_url: str | None, home_dir: Path | None) -> Admin:
    """What the commands are made of, for the database that their options speak of."""
    settings = load_settings(database_url=database_url, home_dir=home_dir)  # first: a mistake is told without SQLAlchemy
    from app.admin import Admin

    return Admin(settings)


def migrate(database_url: DatabaseOption = None, home_dir: HomeOption = None) -> None:
    """Bring the database to the newest schema."""
    _load_admin(database_url, home_dir).migrate()
    typer.echo("the database is at the newest schema")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="user or admin; may be given twice.")] = None,
    database_url: DatabaseOption = None,
    home_dir: HomeOption = None,
) -> None:
    """Make a key and print it: the only time it is shown."""
    typer.echo(asyncio.run(_load_admin(database_url, home_dir).create_key(name, scope or ["user"])))


@keys.command("list")
def list_keys(database_url: DatabaseOption = None, home_dir: HomeOption = None) -> None:
    """List the keys, without their secrets."""
    table = Table("id", "prefix", "name", "scopes", "created", "revoked")
    for key in asyncio.run(_load_admin(database_url, home_dir).list_keys()):
        revoked = f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
        table.add_row(key.id, key.prefix, key.name, " ".join(sorted(key.scopes)), f"{key.created_at:%Y-%m-%d %H:%M}", revoked)
    Console().print(table)


@keys.command("revoke")
def revoke_key(key_id: str, database_url: DatabaseOption = None, home_dir: HomeOption = None) -> None:
    """End a key, by its id."""
    asyncio.run(_load_admin(database_url, home_dir).revoke_key(key_id))
    typer.echo(f"{key_id} is revoked")


@initializers.command("list")
def list_initializers(database_url: DatabaseOption = None, home_dir: HomeOption = None) -> None:
    """List the current versions."""
    table = Table("name", "version", "kind", "input", "max way", "max support", "steps")
    for info in asyncio.run(_load_admin(database_url, home_dir).list_initializers()):
        limits = (info.limits.max_way, info.limits.max_support, info.default_steps)
        table.add_row(info.ref.name, str(info.ref.version), info.kind, "x".join(map(str, info.input.shape)), *map(str, limits))
    Console().print(table)


@initializers.command("show")
def show_initializer(name: str, database_url: DatabaseOption = None, home_dir: HomeOption = None) -> None:
    """Print the card of the current version as JSON."""
    info = asyncio.run(_load_admin(database_url, home_dir).get_initializer(name))
    typer.echo(json.dumps({"name": info.ref.name, "version": info.ref.version, **info.card}, indent=2))
