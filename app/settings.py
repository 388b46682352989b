"""Every knob of the service: its unit is in its name, its reason beside it. Read from `INNERLOOP_*` once, at the root."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

Role = Literal["all", "api", "worker"]

# As SQLAlchemy reads a URL: a password may have slashes and colons, and ends at the first @.
_PORT = re.compile(r"[^:]*://(?:[^:/]*(?::[^@]*)?@)?(?:\[[^/?]+\]|[^/:?]*)(?::([^/?]*))?")


def _wrong_port() -> PydanticCustomError:
    """What stands in the port's place is not shown: without an @, or with a slash before it, that is the password."""
    return PydanticCustomError("port", "expected a number from 1 to 65535 for the port, as in scheme://user:password@host:port/name")


class Settings(BaseSettings):
    """The configuration of one process. Everything has a default that works on a bare machine."""

    model_config = SettingsConfigDict(env_prefix="INNERLOOP_", extra="forbid", hide_input_in_errors=True)  # URLs have passwords

    home_dir: Path = Field(Path(".innerloop"), description="Folder of the SQLite file and other local state.")
    host: str = Field("127.0.0.1", description="Address to bind; loopback unless told otherwise.")
    port: int = Field(8000, ge=0, le=65535, description="Port to bind; 0 takes a free one.")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of a worker's own `/metrics` and `/livez`; none unless told: workers on one machine need one each.",
    )
    database_url: str = Field(
        "",
        pattern=r"^((sqlite(\+aiosqlite)?|postgres|postgresql(\+psycopg)?)://.*)?$",
        description="SQLAlchemy URL; empty means a SQLite file in home_dir.",
    )
    redis_url: str = Field(
        "",
        pattern=r"^((rediss?|unix)://.*)?$",
        description="Redis for queue, adapted states and signals; empty means in-process.",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="Where initializers live: auto, cpu or cuda:N.")
    initializers_dir: Path | None = Field(None, description="Folder of initializer folders; empty means the bundled ones.")
    torch_threads: int = Field(0, ge=0, description="Intra-op threads of torch; 0 leaves one core to the event loop.")

    max_body_bytes: int = Field(16 * 2**20, gt=0, description="Larger bodies are refused with 413 before being read whole.")
    max_image_pixels: int = Field(16_000_000, gt=0, description="An image with more pixels is refused before it is decoded.")
    max_queries: int = Field(1000, gt=0, description="Queries in one request.")
    max_wait_s: float = Field(30.0, ge=0, description="The longest `Prefer: wait` that is honoured.")
    default_ttl_s: int = Field(7 * 86400, gt=0, description="A task without ttl_s is kept this long.")
    auto_budget_ms: float = Field(500.0, ge=0, description="How long `initializer: auto` may go on trying; 0 takes the best card.")
    max_ttl_s: int = Field(90 * 86400, gt=0, description="The longest ttl_s a client may ask for.")

    max_lanes: int = Field(64, gt=0, description="Lanes of one batched inner loop or forward.")
    max_waiting_lanes: int = Field(4096, gt=0, description="Lanes waiting for the device; beyond this, 503 overloaded.")
    resident_bytes: int = Field(1 * 2**30, gt=0, description="Adapted states kept on the device, least recently used out first.")
    state_cache_bytes: int = Field(1 * 2**30, gt=0, description="In-process cache of adapted states when there is no Redis.")
    state_ttl_s: int = Field(24 * 3600, gt=0, description="Adapted states in the cache; a lost one is adapted again.")

    # docket: throughput is concurrency / check interval, so both are set: 256 / 0.05 s = 5,120 jobs/s is never the limit here.
    worker_concurrency: int = Field(256, gt=0, description="Jobs in flight in one worker: 4 batches of max_lanes.")
    worker_check_interval_s: float = Field(
        0.05, gt=0, description="How often a busy worker looks for free slots; below 0.05 memory:// polls."
    )
    redelivery_timeout_s: float = Field(30.0, gt=0, description="A dead worker's jobs return after this long.")
    sweep_interval_s: float = Field(30.0, gt=0, description="How often rows whose job was lost are enqueued again.")
    sweep_after_s: float = Field(30.0, gt=0, description="A row unfinished for longer than this is looked at by the sweeper.")
    max_attempts: int = Field(5, gt=0, description="A job that was started this often and never ended is failed as poison.")
    drain_timeout_s: float = Field(20.0, gt=0, description="After SIGTERM, running lanes have this long to finish.")
    log_format: Literal["console", "json"] = Field("console", description="console for people, json for machines.")

    @field_validator("database_url")
    @classmethod
    def _check_database_port(cls, url: str) -> str:
        match = _PORT.match(url)
        port = match[1] if match else None
        if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
            raise _wrong_port()
        return url

    @field_validator("redis_url")
    @classmethod
    def _check_redis_port(cls, url: str) -> str:
        try:
            _ = urlsplit(url).port  # as redis-py reads it
        except ValueError:
            raise _wrong_port() from None
        return url

    @property
    def resolved_database_url(self) -> str:
        """The URL with its async driver; the SQLite file in home_dir when none is configured."""
        url = self.database_url or f"sqlite:///{(self.home_dir / 'innerloop.db').resolve()}"
        for plain, driver in (
            ("sqlite://", "sqlite+aiosqlite://"),
            ("postgresql://", "postgresql+psycopg://"),
            ("postgres://", "postgresql+psycopg://"),
        ):
            if url.startswith(plain):
                return driver + url.removeprefix(plain)
        return url

    @property
    def is_sqlite(self) -> bool:
        return self.resolved_database_url.startswith("sqlite")
