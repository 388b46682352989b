from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any, cast

import pytest
from sqlalchemy import Connection, Table, event, insert, select

from app.db.session import Database
from app.db.tables import ApiKeyRow
from app.errors import NotFound
from tests.app.db.test_session import key_values

KEYS = cast(Table, ApiKeyRow.__table__)


def add_key(connection: Connection, key_id: str) -> str:
    connection.execute(insert(KEYS), key_values(key_id))
    return key_id


def regret(connection: Connection, key_id: str) -> None:
    add_key(connection, key_id)
    raise NotFound("changed my mind")


async def keys_of(database: Database) -> set[str]:
    async with database.read() as session:
        return set(await session.scalars(select(ApiKeyRow.id)))


def count_commits(database: Database) -> list[Any]:
    commits: list[Any] = []
    assert database._grouped is not None
    event.listen(database._grouped._engine, "commit", commits.append)
    return commits


@pytest.fixture
def sqlite(database: Database) -> Database:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL commits side by side")
    return database


async def test_what_a_transaction_returns_is_committed_when_it_is_returned(database: Database) -> None:
    assert await database.transact(partial(add_key, key_id="key_a")) == "key_a"
    assert await keys_of(database) == {"key_a"}


async def test_of_many_at_once_only_the_one_that_raises_is_undone(database: Database) -> None:
    works = [partial(regret if i == 3 else add_key, key_id=f"key_{i}") for i in range(8)]
    outcomes = await asyncio.gather(*(database.transact(work) for work in works), return_exceptions=True)
    assert [isinstance(outcome, NotFound) for outcome in outcomes] == [i == 3 for i in range(8)]
    assert await keys_of(database) == {f"key_{i}" for i in range(8) if i != 3}


async def test_what_waits_for_a_commit_is_committed_together(sqlite: Database) -> None:
    commits, gate = count_commits(sqlite), threading.Event()
    first = asyncio.create_task(sqlite.transact(lambda connection: gate.wait(5)))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(sqlite.transact(partial(add_key, key_id=f"key_{i}"))) for i in range(20)]
    await asyncio.sleep(0.05)
    gate.set()
    await asyncio.gather(first, *others)
    assert len(commits) == 2
    assert len(await keys_of(sqlite)) == 20


async def test_sessions_and_grouped_transactions_take_turns(database: Database) -> None:
    async def by_session(i: int) -> None:
        async with database.write() as session:
            await session.execute(insert(KEYS), key_values(f"session_{i}"))

    grouped = (database.transact(partial(add_key, key_id=f"grouped_{i}")) for i in range(20))
    await asyncio.gather(*grouped, *(by_session(i) for i in range(20)))
    assert len(await keys_of(database)) == 40


async def test_a_caller_who_left_before_its_turn_writes_nothing(sqlite: Database) -> None:
    gate = threading.Event()
    first = asyncio.create_task(sqlite.transact(lambda connection: gate.wait(5)))
    await asyncio.sleep(0.05)
    leaving = asyncio.create_task(sqlite.transact(lambda connection: add_key(connection, "key_left")))
    staying = asyncio.create_task(sqlite.transact(lambda connection: add_key(connection, "key_stays")))
    await asyncio.sleep(0.05)
    leaving.cancel()
    gate.set()
    await asyncio.gather(first, staying)
    assert await keys_of(sqlite) == {"key_stays"}


async def test_closing_waits_for_what_was_asked_for(database: Database, database_url: str) -> None:
    closing = Database(database_url)
    asked = asyncio.create_task(closing.transact(partial(add_key, key_id="key_a")))
    await asyncio.sleep(0)
    if closing.is_sqlite:
        await closing.close()
        assert await asked == "key_a"
    else:
        await asked
        await closing.close()
    assert await keys_of(database) == {"key_a"}
