"""Queries on API keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.inserts import insert_ignored
from app.db.tables import ApiKeyRow


async def insert_key(session: AsyncSession, values: dict[str, Any]) -> bool:
    """False when a key with this id exists."""
    return await insert_ignored(session, ApiKeyRow, values, ["id"])


async def find_key(session: AsyncSession, prefix: str) -> ApiKeyRow | None:
    """The key with this prefix, revoked or not."""
    return await session.scalar(select(ApiKeyRow).where(ApiKeyRow.prefix == prefix))


async def list_keys(session: AsyncSession) -> Sequence[ApiKeyRow]:
    """Every key, oldest first."""
    return (await session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.created_at, ApiKeyRow.id))).all()


async def revoke_key(session: AsyncSession, key_id: str, now: datetime) -> bool:
    """False when there is no such key; revoking twice keeps the first time."""
    if await session.get(ApiKeyRow, key_id) is None:
        return False
    await session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None)).values(revoked_at=now))
    return True
