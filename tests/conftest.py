"""Fixtures everybody may use: real PostgreSQL and Redis when they are there, and databases at the newest schema.

A skip for want of a server starts with "SKIPPED-SERVER:", which CI counts as a failure.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from secrets import token_hex

import psycopg
import pytest
import redis
from psycopg import sql
from sqlalchemy import make_url

from app import logs
from app.db import migrate
from app.db.session import Database
from app.db.tables import metadata
from tests.servers import RedisServer, can_start_redis, find_postgres, find_redis


class LinesAtOnce(logs.Lines):
    """Log lines that no thread writes a moment later, when pytest has given the terminal its stderr back."""

    def add(self, line: str) -> None:
        super().add(line)
        self.flush()


def pytest_collection_finish() -> None:
    """What all tests together have loaded stays: the garbage collector need not look at it again, a tenth of a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def lines_at_once() -> Iterator[None]:
    """A service's log lines are part of what pytest captures of the test that caused them, and shows if it fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_lines", cache(LinesAtOnce))
        yield


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A database of this session's own at the newest schema, dropped at the end. Tests share it: see `database_url`."""
    server = find_postgres()
    if server is None:
        pytest.skip("SKIPPED-SERVER: no PostgreSQL at INNERLOOP_TEST_POSTGRES_URL or 127.0.0.1:5432")
    name = f"innerloop_test_{token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = make_url(server).set(drivername="postgresql+psycopg", database=name).render_as_string(hide_password=False)
    try:
        migrate.upgrade(url)
        yield url
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def empty_postgres_url(postgres_url: str) -> Iterator[str]:
    """PostgreSQL with no row in it, before and after."""
    yield postgres_url
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        for table in reversed(metadata.sorted_tables):  # TRUNCATE makes new files for every table: 90 ms, where a few rows take one
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table.name)))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy: faster than migrating for every test."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate.upgrade(f"sqlite+aiosqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A SQLite file of this test's own at the newest schema."""
    shutil.copy(sqlite_template, tmp_path / "innerloop.db")
    return f"sqlite+aiosqlite:///{tmp_path / 'innerloop.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each database in turn, migrated and empty."""
    name = "sqlite_url" if request.param == "sqlite" else "empty_postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The service's own access to each database in turn."""
    opened = Database(database_url)
    yield opened
    await opened.close()


@pytest.fixture
def private_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test's own: `.url`, `.kill()`, `.start()`."""
    if not can_start_redis():
        pytest.skip("SKIPPED-SERVER: no redis-server program to start and kill")
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running Redis, perhaps somebody else's: use it under `redis_namespace` only."""
    url = find_redis()
    if url is not None:
        yield url
    elif can_start_redis():
        with RedisServer(tmp_path_factory.mktemp("redis")) as server:
            yield server.url
    else:
        pytest.skip("SKIPPED-SERVER: no Redis at INNERLOOP_TEST_REDIS_URL or 127.0.0.1:6379, and no redis-server program")


@pytest.fixture
def redis_namespace(redis_url: str) -> Iterator[str]:
    """A prefix of this test's own; what is under it is deleted afterwards."""
    namespace = f"innerloop-test-{token_hex(6)}"
    yield namespace
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(f"{namespace}:*"):
            client.delete(key)
