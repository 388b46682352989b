from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import Connection, Table, event, func, insert, make_url, select, text
from sqlalchemy.exc import OperationalError

from app.db.session import Database
from app.db.tables import ApiKeyRow
from app.errors import NotFound, Unavailable
from tests.app.db.test_session import key_values

KEYS = cast(Table, ApiKeyRow.__table__)


def add_keys(connection: Connection, ids: Sequence[str]) -> Sequence[str]:
    """Adds keys of these ids; one that is called `regret` raises."""
    connection.execute(insert(KEYS), [key_values(key_id) for key_id in ids])
    if "regret" in ids:
        raise NotFound("changed my mind")
    return ids


def wait_for(connection: Connection, gates: Sequence[threading.Event]) -> Sequence[bool]:
    return [gate.wait(5) for gate in gates]


async def keys_of(database: Database) -> set[str]:
    async with database.read() as session:
        return set(await session.scalars(select(ApiKeyRow.id)))


def count_commits(database: Database) -> list[Any]:
    commits: list[Any] = []
    event.listen(database._writing._engine, "commit", commits.append)
    return commits


class Busy:
    """The writer of a database, or its reader, kept waiting until the block ends, so that what is asked for meanwhile meets."""

    def __init__(self, database: Database, *, reads: bool = False) -> None:
        self._run, self._gate = database.fetch if reads else database.transact, threading.Event()

    async def __aenter__(self) -> None:
        self._first = asyncio.create_task(self._run(wait_for, self._gate))
        await asyncio.sleep(0.05)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.05)
        self._gate.set()
        await self._first


async def test_what_a_transaction_returns_is_committed_when_it_is_returned(database: Database) -> None:
    assert await database.transact(add_keys, "key_a") == "key_a"
    assert await keys_of(database) == {"key_a"}


async def test_of_many_at_once_only_the_one_that_raises_is_undone(database: Database) -> None:
    ids = [f"key_{i}" for i in range(7)]
    async with Busy(database):
        asked = [asyncio.create_task(database.transact(add_keys, key_id)) for key_id in [*ids[:3], "regret", *ids[3:]]]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(outcome, NotFound) for outcome in outcomes] == [i == 3 for i in range(8)]
    assert await keys_of(database) == set(ids)


async def test_what_waits_for_a_commit_is_one_transaction(database: Database) -> None:
    commits, calls = count_commits(database), list[int]()

    def add(connection: Connection, ids: Sequence[str]) -> Sequence[str]:
        calls.append(len(ids))
        return add_keys(connection, ids)

    async with Busy(database):
        others = [asyncio.create_task(database.transact(add, f"key_{i}")) for i in range(20)]
    assert await asyncio.gather(*others) == [f"key_{i}" for i in range(20)]
    assert (len(commits), calls) == (2, [20])
    assert len(await keys_of(database)) == 20


async def test_two_kinds_of_work_are_two_transactions_each_of_all_that_waits_for_it(database: Database) -> None:
    commits = count_commits(database)

    def count(connection: Connection, items: Sequence[str]) -> Sequence[int]:
        return [connection.scalar(select(func.count()).select_from(KEYS)) or 0] * len(items)

    async with Busy(database):
        works = [add_keys if i % 2 == 0 else count for i in range(6)]
        asked: list[asyncio.Task[Any]] = [asyncio.create_task(database.transact(work, f"key_{i}")) for i, work in enumerate(works)]
    assert await asyncio.gather(*asked) == ["key_0", 3, "key_2", 3, "key_4", 3]
    assert len(commits) == 3


async def test_a_database_that_fails_is_asked_once_and_not_once_for_each(database: Database) -> None:
    calls = list[int]()

    def fail(connection: Connection, items: Sequence[int]) -> Sequence[int]:
        calls.append(len(items))
        raise OperationalError("SELECT 1", {}, OSError("gone"))

    async with Busy(database):
        asked = [asyncio.create_task(database.transact(fail, i)) for i in range(5)]
    assert all(isinstance(outcome, Unavailable) for outcome in await asyncio.gather(*asked, return_exceptions=True))
    assert calls == [5]


def end_connection(url: str, pid: int) -> None:
    """As a restart of the server does to all."""
    with psycopg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


def find_pid(connection: Connection, items: Sequence[int]) -> Sequence[int]:
    return [connection.scalar(text("SELECT pg_backend_pid()")) or 0 for _ in items]


async def test_a_connection_that_a_restart_of_the_server_cut_costs_no_request(empty_postgres_url: str) -> None:
    database = Database(empty_postgres_url)
    for ask in (database.transact, database.fetch):
        before = await ask(find_pid, 0)
        await asyncio.to_thread(end_connection, empty_postgres_url, before)
        assert await ask(find_pid, 0) != before
    await database.close()


async def test_a_transaction_whose_connection_is_lost_again_is_not_tried_for_ever(empty_postgres_url: str) -> None:
    database, calls = Database(empty_postgres_url), list[int]()

    def cut(connection: Connection, items: Sequence[int]) -> Sequence[int]:
        calls.append(len(items))
        return [connection.scalar(text("SELECT 1 FROM pg_terminate_backend(pg_backend_pid())")) or 0]

    with pytest.raises(Unavailable):
        await database.transact(cut, 0)
    assert calls == [1, 1]
    await database.close()


async def test_what_is_lost_in_its_commit_is_not_done_again_for_it_may_be_done(empty_postgres_url: str) -> None:
    database, calls = Database(empty_postgres_url), list[int]()

    def cut_before_commit(connection: Connection, items: Sequence[int]) -> Sequence[int]:
        calls.append(len(items))
        end_connection(empty_postgres_url, find_pid(connection, items)[0])
        return items

    with pytest.raises(Unavailable):
        await database.transact(cut_before_commit, 0)
    assert calls == [1]
    await database.close()


async def test_transactions_that_the_database_chose_to_end_a_deadlock_get_through_one_by_one(database: Database) -> None:
    class Deadlock(Exception):
        sqlstate = "40P01"

    def deadlock(connection: Connection, items: Sequence[int]) -> Sequence[int]:
        if len(items) > 1:
            raise OperationalError("UPDATE", {}, Deadlock())
        return items

    async with Busy(database):
        asked = [asyncio.create_task(database.transact(deadlock, i)) for i in range(5)]
    assert await asyncio.gather(*asked) == list(range(5))


async def test_sessions_and_grouped_transactions_take_turns(database: Database) -> None:
    async def by_session(i: int) -> None:
        async with database.write() as session:
            await session.execute(insert(KEYS), key_values(f"session_{i}"))

    grouped = (database.transact(add_keys, f"grouped_{i}") for i in range(20))
    await asyncio.gather(*grouped, *(by_session(i) for i in range(20)))
    assert len(await keys_of(database)) == 40


async def test_a_caller_who_left_before_its_turn_writes_nothing(database: Database) -> None:
    async with Busy(database):
        leaving = asyncio.create_task(database.transact(add_keys, "key_left"))
        staying = asyncio.create_task(database.transact(add_keys, "key_stays"))
        await asyncio.sleep(0.05)
        leaving.cancel()
    await staying
    assert await keys_of(database) == {"key_stays"}


async def test_closing_waits_for_what_was_asked_for(database: Database, database_url: str) -> None:
    closing = Database(database_url)
    asked = asyncio.create_task(closing.transact(add_keys, "key_a"))
    await asyncio.sleep(0)
    await closing.close()
    assert await asked == "key_a"
    assert await keys_of(database) == {"key_a"}


async def test_reads_that_wait_are_one_and_find_what_was_committed_since(database: Database) -> None:
    calls = list[int]()

    def find(connection: Connection, ids: Sequence[str]) -> Sequence[bool]:
        calls.append(len(ids))
        return [key_id in set(connection.scalars(select(KEYS.c.id))) for key_id in ids]

    async with Busy(database, reads=True):
        asked = [asyncio.create_task(database.fetch(find, key_id)) for key_id in ("key_a", "key_b", "key_a")]
        await database.transact(add_keys, "key_a")
    assert await asyncio.gather(*asked) == [True, False, True]
    assert calls == [3]


async def test_a_read_begins_no_transaction_and_holds_nobody_up(database: Database) -> None:
    reading, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def find_and_wait(connection: Connection, items: Sequence[int]) -> Sequence[int]:
        found = len(connection.scalars(select(KEYS.c.id)).all())
        loop.call_soon_threadsafe(reading.set)
        go_on.wait(5)
        return [found + len(connection.scalars(select(KEYS.c.id)).all())] * len(items)

    counting = asyncio.create_task(database.fetch(find_and_wait, 0))
    await reading.wait()
    await database.transact(add_keys, "key_a")
    go_on.set()
    assert await counting == 1, "the second statement finds what was committed after the first"


async def test_who_asks_a_closed_database_is_told_so(database_url: str) -> None:
    closed = Database(database_url)
    await closed.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        await asyncio.wait_for(closed.transact(add_keys, "key_a"), 5)
