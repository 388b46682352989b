"""The `innerloop` command: serve, worker, demo, train, evaluate, compare, calibrate, benchmark, keys, initializers, migrate.

What a command needs besides its options is imported when it runs: with SQLAlchemy, Alembic, httpx and numpy `--help` took 1.3 s, and
takes 0.4 without (two cores of an AMD EPYC, 2026-11-22).
"""

from __future__ import annotations

import signal
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from app import admin_commands, benchmark_commands, comparison_commands, training_commands
from app.errors import AppError
from app.settings import Role, Settings
from app.settings_options import (
    DatabaseOption,
    DeviceOption,
    HomeOption,
    HostOption,
    MetricsPortOption,
    PortOption,
    RedisOption,
    load_settings,
)

cli = typer.Typer(name="innerloop", help="Few-shot adaptation as a REST service.", no_args_is_help=True, pretty_exceptions_enable=False)
training_commands.register(cli)
comparison_commands.register(cli)
benchmark_commands.register(cli)
admin_commands.register(cli)


def main() -> None:
    """The entry point: an error with a code is told in one line, with exit status 1."""
    try:
        cli()
    except AppError as error:
        typer.secho(f"{error.code}: {error.detail}", err=True, fg="red")
        raise SystemExit(1) from None


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
    host: HostOption = None,
    metrics_port: MetricsPortOption = None,
    device: DeviceOption = None,
    database_url: DatabaseOption = None,
    redis_url: RedisOption = None,
    home_dir: HomeOption = None,
) -> None:
    """Run a queue worker, as serve --role worker does; it listens on no port unless it is to show its metrics."""
    settings = load_settings(
        host=host, metrics_port=metrics_port, device=device, database_url=database_url, redis_url=redis_url, home_dir=home_dir
    )
    _run_role(settings, "worker")


def _run_role(settings: Settings, role: Role) -> None:
    _require_shared_stores(settings, role)
    from app import serving  # uvicorn and FastAPI: a mistake is told without them

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the servers install their own, a stop during start-up is clean
    try:
        if role == "worker":
            serving.run_worker_process(settings, announce=typer.echo)
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
