"""The `innerloop` command: serve, worker, demo, train, evaluate, compare, calibrate, benchmark, keys, initializers, migrate.

What a command needs besides its options is imported when it runs: with SQLAlchemy, Alembic, httpx and numpy `--help` took 1.3 s, and
takes 0.4 without (two cores of an AMD EPYC, 2026-11-22).
"""

from __future__ import annotations

import asyncio
import json
import signal
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from app import benchmark_commands, comparison_commands, training_commands
from app.errors import AppError
from app.settings import Role, Settings

cli = typer.Typer(name="innerloop", help="Few-shot adaptation as a REST service.", no_args_is_help=True, pretty_exceptions_enable=False)
keys = typer.Typer(help="API keys: made, listed and ended.", no_args_is_help=True)
initializers = typer.Typer(help="The initializers in the database, by their current version.", no_args_is_help=True)
cli.add_typer(keys, name="keys")
cli.add_typer(initializers, name="initializers")
training_commands.register(cli)
comparison_commands.register(cli)
benchmark_commands.register(cli)

HostOption = Annotated[str | None, typer.Option(help="Address to bind [INNERLOOP_HOST, 127.0.0.1].")]
PortOption = Annotated[int | None, typer.Option(help="Port to bind, 0 takes a free one [INNERLOOP_PORT, 8000].")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda:N [INNERLOOP_DEVICE, auto].")]
DatabaseOption = Annotated[str | None, typer.Option(help="SQLAlchemy URL [INNERLOOP_DATABASE_URL, a SQLite file].")]
RedisOption = Annotated[str | None, typer.Option(help="Redis URL [INNERLOOP_REDIS_URL, in-process].")]
HomeOption = Annotated[Path | None, typer.Option(help="Folder of local state [INNERLOOP_HOME_DIR, .innerloop].")]


def main() -> None:
    """The entry point: an error with a code is told in one line, with exit status 1."""
    try:
        cli()
    except AppError as error:
        typer.secho(f"{error.code}: {error.detail}", err=True, fg="red")
        raise SystemExit(1) from None


def load_settings(**given: Any) -> Settings:
    """The settings of the environment, with what the command line gave on top. Ends the program on a value out of range."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            typer.secho(f"INNERLOOP_{'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}", err=True, fg="red")
        raise SystemExit(2) from None


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"innerloop {version('innerloop')}")
        raise typer.Exit


@cli.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


@cli.command()
def serve(
    role: Annotated[Role, typer.Option(help="all: HTTP and worker in one process; api: HTTP only; worker: the queue only.")] = "all",
    host: HostOption = None,
    port: PortOption = None,
    device: DeviceOption = None,
    database_url: DatabaseOption = None,
    redis_url: RedisOption = None,
    home_dir: HomeOption = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C; then finish what runs, and give back the rest."""
    settings = load_settings(host=host, port=port, device=device, database_url=database_url, redis_url=redis_url, home_dir=home_dir)
    _run_role(settings, role)


@cli.command()
def worker(
    device: DeviceOption = None, database_url: DatabaseOption = None, redis_url: RedisOption = None, home_dir: HomeOption = None
) -> None:
    """Run a queue worker: the same as serve --role worker."""
    _run_role(load_settings(device=device, database_url=database_url, redis_url=redis_url, home_dir=home_dir), "worker")


def _run_role(settings: Settings, role: Role) -> None:
    _require_shared_stores(settings, role)
    from app import serving  # uvicorn and FastAPI: a mistake is told without them

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the servers install their own, a stop during start-up is clean
    try:
        if role == "worker":
            serving.run_worker_process(settings)
        else:
            serving.run_http_process(settings, role, announce=typer.echo)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _require_shared_stores(settings: Settings, role: Role) -> None:
    """Ends the program when processes of different roles could not reach each other's work."""
    if role == "all":
        return
    if not settings.redis_url:
        raise SystemExit(f"--role {role} needs Redis in --redis-url or INNERLOOP_REDIS_URL: an in-process queue has no other processes")
    if settings.is_sqlite:
        raise SystemExit(f"--role {role} needs PostgreSQL in --database-url or INNERLOOP_DATABASE_URL: SQLite is for one process")


@cli.command()
def migrate(database_url: DatabaseOption = None, home_dir: HomeOption = None) -> None:
    """Bring the database to the newest schema."""
    from app import admin

    admin.migrate(load_settings(database_url=database_url, home_dir=home_dir))
    typer.echo("the database is at the newest schema")


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="user or admin; may be given twice.")] = None,
    database_url: DatabaseOption = None,
    home_dir: HomeOption = None,
) -> None:
    """Make a key and print it: the only time it is shown."""
    from app import admin

    typer.echo(asyncio.run(admin.create_key(load_settings(database_url=database_url, home_dir=home_dir), name, scope or ["user"])))


@keys.command("list")
def list_keys(database_url: DatabaseOption = None, home_dir: HomeOption = None) -> None:
    """List the keys, without their secrets."""
    from app import admin

    table = Table("id", "prefix", "name", "scopes", "created", "revoked")
    for key in asyncio.run(admin.list_keys(load_settings(database_url=database_url, home_dir=home_dir))):
        revoked = f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
        table.add_row(key.id, key.prefix, key.name, " ".join(sorted(key.scopes)), f"{key.created_at:%Y-%m-%d %H:%M}", revoked)
    Console().print(table)


@keys.command("revoke")
def revoke_key(key_id: str, database_url: DatabaseOption = None, home_dir: HomeOption = None) -> None:
    """End a key, by its id."""
    from app import admin

    asyncio.run(admin.revoke_key(load_settings(database_url=database_url, home_dir=home_dir), key_id))
    typer.echo(f"{key_id} is revoked")


@initializers.command("list")
def list_initializers(database_url: DatabaseOption = None, home_dir: HomeOption = None) -> None:
    """List the current versions."""
    from app import admin

    table = Table("name", "version", "kind", "input", "max way", "max support", "steps")
    for info in asyncio.run(admin.list_initializers(load_settings(database_url=database_url, home_dir=home_dir))):
        limits = (info.limits.max_way, info.limits.max_support, info.default_steps)
        table.add_row(info.ref.name, str(info.ref.version), info.kind, "x".join(map(str, info.input.shape)), *map(str, limits))
    Console().print(table)


@initializers.command("show")
def show_initializer(name: str, database_url: DatabaseOption = None, home_dir: HomeOption = None) -> None:
    """Print the card of the current version as JSON."""
    from app import admin

    info = asyncio.run(admin.get_initializer(load_settings(database_url=database_url, home_dir=home_dir), name))
    typer.echo(json.dumps({"name": info.ref.name, "version": info.ref.version, **info.card}, indent=2))


@cli.command("demo")
def run_demo(
    once: Annotated[bool, typer.Option("--once", help="Exit after the table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object on one line.")] = False,
    draws: Annotated[int, typer.Option(min=2, help="Random support sets per row, behind each interval.")] = 10,
    port: Annotated[int, typer.Option(help="Port of the service; a free one when it is taken.")] = 8000,
    home_dir: Annotated[Path | None, typer.Option(help="Folder of the demo's database [.innerloop/demo].")] = None,
) -> None:
    """Learn five handwritten digits from one example each, over HTTP, and recognise new ones."""
    from app import demo

    raise SystemExit(demo.run(once=once, as_json=as_json, draws=draws, port=port, home_dir=home_dir or demo.HOME_DIR))


if __name__ == "__main__":
    main()
