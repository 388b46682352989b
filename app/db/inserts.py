"""INSERT ... ON CONFLICT DO NOTHING, which both databases know and SQLAlchemy spells apart."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import tables

Insert = sqlite.Insert | postgresql.Insert


def insert_ignoring(dialect: str, table: Table, unique: list[str]) -> Insert:
    """The insert that leaves a row as it is where there is one with the same values of the columns `unique`."""
    statement: Insert = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    return statement.on_conflict_do_nothing(index_elements=unique)


async def insert_ignored(session: AsyncSession, table: type[tables.Table], values: dict[str, Any], unique: list[str]) -> bool:
    """Whether the row is new."""
    into, connection = cast(Table, table.__table__), await session.connection()
    statement = insert_ignoring(connection.dialect.name, into, unique).returning(*into.primary_key)
    return (await connection.execute(statement, values)).first() is not None


def insert_many(connection: Connection, table: type[tables.Table], rows: list[dict[str, Any]], unique: list[str]) -> None:
    """Inserts those that are new."""
    if rows:
        connection.execute(insert_ignoring(connection.dialect.name, cast(Table, table.__table__), unique), rows)
