from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from app.db import api_keys
from app.db.session import Database
from app.db.tables import ApiKeyRow
from app.errors import NotFound, Unavailable


def key_values(key_id: str) -> dict[str, Any]:
    prefix = secrets.token_hex(4)
    return {
        "id": key_id,
        "prefix": prefix,
        "secret_sha256": "0" * 64,
        "name": "n",
        "scopes": ["user"],
        "created_at": datetime.now(UTC),
        "revoked_at": None,
    }


async def test_write_commits_at_its_end(database: Database) -> None:
    async with database.write() as session:
        await api_keys.insert_key(session, key_values("key_a"))
    async with database.read() as session:
        row = await session.get(ApiKeyRow, "key_a")
    assert row is not None
    assert row.created_at.tzinfo is UTC


async def test_an_exception_inside_write_leaves_nothing_behind(database: Database) -> None:
    async def insert_and_regret() -> None:
        async with database.write() as session:
            await api_keys.insert_key(session, key_values("key_a"))
            raise NotFound("changed my mind")

    with pytest.raises(NotFound):
        await insert_and_regret()
    async with database.read() as session:
        assert await session.get(ApiKeyRow, "key_a") is None


async def test_inserting_the_same_key_twice_is_refused_without_an_error(database: Database) -> None:
    async with database.write() as session:
        first = await api_keys.insert_key(session, key_values("key_a"))
        second = await api_keys.insert_key(session, key_values("key_a"))
    assert (first, second) == (True, False)


async def test_many_writers_wait_for_their_turn(database: Database) -> None:
    async def write(i: int) -> None:
        async with database.write() as session:
            known = len(await api_keys.list_keys(session))  # read, then write: what fails when SQLite begins deferred
            await api_keys.insert_key(session, key_values(f"key_{i}_{known}"))

    await asyncio.gather(*(write(i) for i in range(40)))
    async with database.read() as session:
        assert len(await api_keys.list_keys(session)) == 40


async def test_two_processes_that_read_then_write_do_not_lock_each_other_out(database: Database, database_url: str) -> None:
    other = Database(database_url)

    async def count_up(db: Database, name: str) -> None:
        for i in range(20):
            async with db.write() as session:
                await api_keys.list_keys(session)
                await api_keys.insert_key(session, key_values(f"key_{name}_{i}"))

    try:
        await asyncio.gather(count_up(database, "a"), count_up(other, "b"))
    finally:
        await other.close()
    async with database.read() as session:
        assert len(await api_keys.list_keys(session)) == 40


async def test_a_database_that_is_away_is_unavailable() -> None:
    away = Database("postgresql+psycopg://postgres@127.0.0.1:1/nothing")
    with pytest.raises(Unavailable) as caught:
        await away.ping()
    assert caught.value.code == "database_unavailable"
    assert caught.value.retry_after_s is not None
    await away.close()


async def test_connections_cut_by_a_server_restart_heal_by_themselves(empty_postgres_url: str) -> None:
    database = Database(empty_postgres_url)

    async def cut() -> None:
        async with database.write() as session:
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(Unavailable):
        await cut()
    await database.ping()
    await database.close()
