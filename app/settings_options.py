"""The options of a command that stand for settings, and the settings that it runs with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from app.settings import Settings

HostOption = Annotated[str | None, typer.Option(help="Address to bind [INNERLOOP_HOST, 127.0.0.1].")]
PortOption = Annotated[int | None, typer.Option(help="Port to bind, 0 takes a free one [INNERLOOP_PORT, 8000].")]
MetricsPortOption = Annotated[
    int | None, typer.Option(help="Port of the worker's /metrics and /livez, 0 takes a free one [INNERLOOP_METRICS_PORT, none].")
]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda:N [INNERLOOP_DEVICE, auto].")]
DatabaseOption = Annotated[str | None, typer.Option(help="SQLAlchemy URL [INNERLOOP_DATABASE_URL, a SQLite file].")]
RedisOption = Annotated[str | None, typer.Option(help="Redis URL [INNERLOOP_REDIS_URL, in-process].")]
HomeOption = Annotated[Path | None, typer.Option(help="Folder of local state [INNERLOOP_HOME_DIR, .innerloop].")]


def load_settings(**given: Any) -> Settings:
    """The settings of the environment, with what the command line gave on top. Ends the program on a value out of range."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            typer.secho(f"INNERLOOP_{'.'.join(map(str, fault['loc'])).upper()}: {fault['msg']}", err=True, fg="red")
        raise SystemExit(2) from None
