"""Queries on API keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, Table, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.inserts import insert_ignored
from app.db.tables import ApiKeyRow

_KEYS = cast(Table, ApiKeyRow.__table__)
_FIND = select(*_KEYS.c).where(_KEYS.c.prefix.in_(bindparam("these", expanding=True)))


async def insert_key(session: AsyncSession, values: dict[str, Any]) -> bool:
    """False when a key with this id exists."""
    return await insert_ignored(session, ApiKeyRow, values, ["id"])


def find_all(connection: Connection, prefixes: Sequence[str]) -> list[ApiKeyRow | None]:
    """The key with each prefix, revoked or not. One statement."""
    found = {row.prefix: cast(ApiKeyRow, row) for row in connection.execute(_FIND, {"these": sorted(set(prefixes))})}
    return [found.get(prefix) for prefix in prefixes]


async def list_keys(session: AsyncSession) -> Sequence[ApiKeyRow]:
    """Every key, oldest first."""
    return (await session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.created_at, ApiKeyRow.id))).all()


async def revoke_key(session: AsyncSession, key_id: str, now: datetime) -> bool:
    """False when there is no such key; revoking twice keeps the first time."""
    if await session.get(ApiKeyRow, key_id) is None:
        return False
    await session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None)).values(revoked_at=now))
    return True
