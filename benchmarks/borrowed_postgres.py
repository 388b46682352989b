"""A database of a running PostgreSQL, made at the newest schema for one benchmark and dropped after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from app.db import migrate

DEFAULT_URL = "postgresql://postgres@127.0.0.1:5432/postgres"
NOT_THERE = "no PostgreSQL that lets us make a database at INNERLOOP_BENCHMARK_POSTGRES_URL or 127.0.0.1:5432"


@contextmanager
def borrowed_postgres() -> Iterator[str | None]:
    """The URL of a database of our own, dropped when the block ends; None when there is none to be had."""
    server, name = os.environ.get("INNERLOOP_BENCHMARK_POSTGRES_URL", DEFAULT_URL), f"innerloop_benchmark_{token_hex(6)}"
    try:
        _execute(server, "CREATE DATABASE {}", name)
    except psycopg.Error:
        yield None
        return
    try:
        url = make_url(server).set(drivername="postgresql+psycopg", database=name).render_as_string(hide_password=False)
        migrate.upgrade(url)
        yield url
    finally:
        _execute(server, "DROP DATABASE {} WITH (FORCE)", name)


def _execute(server: str, statement: str, name: str) -> None:
    with psycopg.connect(server, autocommit=True, connect_timeout=3) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))
