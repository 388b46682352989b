"""The database: `read()` and `write()`, and `fetch()` and `transact()` for what every request does.

The ends of `write()` and of `transact()` are the only places that commit what was written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from app.db.group_commit import GroupCommit, Work
from app.errors import InvalidInput, Unavailable

T = TypeVar("T")
R = TypeVar("R")

# WAL lets readers go on beside the one writer; NORMAL loses no committed row when the process is killed, only on power failure.
SQLITE_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=NORMAL",
    "busy_timeout=5000",
    "foreign_keys=ON",
    "temp_store=MEMORY",
    "cache_size=-65536",
    "mmap_size=268435456",
)


POOL_TIMEOUT_S = 30.0
"""On SQLite: at 1 to 3 ms a write, a queue of thousands of writers still gets its turn."""


class Database:
    """One database, reached with SQLAlchemy's async engines. url names its driver, as `Settings.resolved_database_url` does.

    SQLite: a reader pool of 4 and a writer pool of 1 that begins IMMEDIATE (deferred transactions of two processes that read, then
    write, fail with "database is locked" whatever the timeout), one more connection for `transact`, with which the writer takes turns, and
    one for `fetch`. PostgreSQL: one pool for all, and likewise two more connections.
    """

    def __init__(self, url: str, *, pool_size: int = 16, pool_timeout_s: float = 10.0, connect_timeout_s: int = 3) -> None:
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self._turn = asyncio.Lock()
        if self.is_sqlite:
            self._reader = _sqlite_engine(url, pool_size=4, begin="BEGIN")
            self._writer = _sqlite_engine(url, pool_size=1, begin="BEGIN IMMEDIATE")
            self._writing = GroupCommit(_blocking_sqlite_engine(url, "BEGIN IMMEDIATE"), self._turn)
            self._reading = GroupCommit(_blocking_sqlite_engine(url, None), asyncio.Lock())
        else:
            options = {"max_overflow": 0, "connect_args": _time_out_after(url, connect_timeout_s)}
            # A restarted server costs a ping, not a failed request.
            self._writer = create_async_engine(url, pool_size=pool_size, pool_timeout=pool_timeout_s, pool_pre_ping=True, **options)
            # A read of several statements sees one moment; the writer's READ COMMITTED sees what others committed while it waited.
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ")
            self._writing = GroupCommit(create_engine(url, pool_size=1, **options), asyncio.Lock())
            self._reading = GroupCommit(create_engine(url, pool_size=1, isolation_level="AUTOCOMMIT", **options), asyncio.Lock())
        self._read_session = async_sessionmaker(self._reader, expire_on_commit=False, autoflush=False)
        self._write_session = async_sessionmaker(self._writer, expire_on_commit=False, autoflush=False)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session that is rolled back. Raises Unavailable database_unavailable."""
        async with _as_unavailable(), self._read_session() as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed at the end, rolled back by any exception. Raises Unavailable database_unavailable."""
        async with _as_unavailable(), self._my_turn(), self._write_session() as session, session.begin():
            yield session

    async def transact(self, work: Work[T, R], item: T) -> R:
        """What `work` makes of the item: committed before this returns, undone by any exception. Raises as `write`.

        The way for what every request does: items that wait at the same time for the same work are one transaction, of as many statements
        as one of them would cost (see `GroupCommit`).
        """
        async with _as_unavailable():
            return await self._writing.run(work, item)

    async def fetch(self, work: Work[T, R], item: T) -> R:
        """What `work` finds for the item by its one statement, so of one moment, which is after this was called. Raises as `read`.

        The way for what every request reads: items that wait at the same time for the same work are read together, outside of any
        transaction. To begin one and to end it would be two round trips more.
        """
        async with _as_unavailable():
            return await self._reading.run(work, item)

    @asynccontextmanager
    async def _my_turn(self) -> AsyncIterator[None]:
        """SQLite's two writing connections in this process take turns: waiting for a lock of the file would mean sleeping."""
        if not self.is_sqlite:
            yield
            return
        async with asyncio.timeout(POOL_TIMEOUT_S):
            await self._turn.acquire()
        try:
            yield
        finally:
            self._turn.release()

    async def ping(self) -> None:
        """Raises Unavailable when the database cannot be reached."""
        async with self.read() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Closes every connection, once what was asked for is committed."""
        await self._writing.close()
        await self._reading.close()
        await self._writer.dispose()
        await self._reader.dispose()


def prepare_sqlite(engine: Engine, begin: str | None) -> None:
    """Makes an engine's connections begin as told, or with None not at all, and run under our pragmas."""

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # sqlite3 must not begin for us: it would begin deferred
        cursor = connection.cursor()
        for pragma in SQLITE_PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if begin is not None:
            connection.exec_driver_sql(begin)


def _sqlite_engine(url: str, *, pool_size: int, begin: str) -> AsyncEngine:
    engine = create_async_engine(url, pool_size=pool_size, max_overflow=0, pool_timeout=POOL_TIMEOUT_S)
    prepare_sqlite(engine.sync_engine, begin)
    return engine


def _blocking_sqlite_engine(url: str, begin: str | None) -> Engine:
    """One connection of the driver without a thread of its own."""
    blocking = make_url(url).set(drivername="sqlite")
    engine = create_engine(blocking, pool_size=1, max_overflow=0, connect_args={"check_same_thread": False})
    prepare_sqlite(engine, begin)
    return engine


def _time_out_after(url: str, connect_timeout_s: int) -> dict[str, Any]:
    return {"connect_timeout": connect_timeout_s} if "psycopg" in url else {}


@asynccontextmanager
async def _as_unavailable() -> AsyncIterator[None]:
    """The one place where the drivers' connection errors become ours."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout, OSError) as error:
        raise Unavailable("The database cannot be reached", reason=_first_line(error), code="database_unavailable") from error
    except (DataError, OverflowError) as error:  # a NUL character in a text, a number beyond 64 bits: never the database's fault
        raise InvalidInput(f"A value cannot be stored or looked for: {_first_line(error)}") from error
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise Unavailable("The database went away", reason=_first_line(error), code="database_unavailable") from error


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).strip().split("\n")[0]
