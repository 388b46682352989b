"""Queries on the registry of initializer versions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, Table, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from app.db.inserts import insert_ignored
from app.db.tables import InitializerRow, InitializerVersionRow
from app.domain import InitializerRef

_POINTERS = cast(Table, InitializerRow.__table__)
_CURRENT = select(_POINTERS.c.name, _POINTERS.c.current_version).where(_POINTERS.c.current_version.is_not(None)).order_by(_POINTERS.c.name)


def current_versions(connection: Connection) -> dict[str, InitializerRef]:
    """The current version of every initializer that has one, by name."""
    rows = connection.execute(_CURRENT)
    return {row.name: InitializerRef(row.name, row.current_version) for row in rows}


async def current_refs(session: AsyncSession) -> list[InitializerRef]:
    """The current version of every initializer, by name."""
    return list((await (await session.connection()).run_sync(current_versions)).values())


async def current_ref(session: AsyncSession, name: str) -> InitializerRef | None:
    """What the pointer points at."""
    version = await session.scalar(select(InitializerRow.current_version).where(InitializerRow.name == name))
    return InitializerRef(name, version) if version is not None else None


async def versions_of(session: AsyncSession, name: str) -> list[int]:
    """The stored versions of an initializer, oldest first; those that were withdrawn are gaps."""
    query = select(InitializerVersionRow.version).where(InitializerVersionRow.name == name)
    return list(await session.scalars(query.order_by(InitializerVersionRow.version)))


async def find_card(session: AsyncSession, ref: InitializerRef) -> Mapping[str, Any] | None:
    """A version's card, without its weights."""
    row = await session.get(InitializerVersionRow, (ref.name, ref.version))
    return row.card if row is not None else None


async def find_version(session: AsyncSession, ref: InitializerRef) -> InitializerVersionRow | None:
    """A version with its weights."""
    return await session.get(InitializerVersionRow, (ref.name, ref.version), options=[undefer(InitializerVersionRow.weights)])


async def find_digest(session: AsyncSession, name: str, sha256: str) -> InitializerRef | None:
    """The newest version with these bytes."""
    query = select(InitializerVersionRow.version).where(InitializerVersionRow.name == name, InitializerVersionRow.sha256 == sha256)
    version = await session.scalar(query.order_by(InitializerVersionRow.version.desc()).limit(1))
    return InitializerRef(name, version) if version is not None else None


async def digest_of(session: AsyncSession, ref: InitializerRef) -> str | None:
    """The digest a version was stored under."""
    mine = (InitializerVersionRow.name == ref.name, InitializerVersionRow.version == ref.version)
    return await session.scalar(select(InitializerVersionRow.sha256).where(*mine))


async def store_next(session: AsyncSession, name: str, sha256: str, card: dict[str, Any], weights: bytes, now: datetime) -> InitializerRef:
    """Stores bytes as the next version, not yet current; the newest version itself when it has these very bytes.

    So two reloads of the same folder at the same time meet on one version. The pointer's row is locked until the transaction ends.
    """
    await insert_ignored(session, InitializerRow, {"name": name, "current_version": None, "last_version": 0}, ["name"])
    pointer = (await session.scalars(select(InitializerRow).where(InitializerRow.name == name).with_for_update())).one()
    newest = await session.get(InitializerVersionRow, (name, pointer.last_version))
    if newest is not None and newest.sha256 == sha256:
        return InitializerRef(name, newest.version)
    pointer.last_version += 1
    row = InitializerVersionRow(name=name, version=pointer.last_version, sha256=sha256, card=card, weights=weights, created_at=now)
    session.add(row)
    await session.flush()
    return InitializerRef(name, row.version)


async def swap_pointer(session: AsyncSession, ref: InitializerRef) -> bool:
    """Makes a stored version the current one, unless a newer one is; False when it was withdrawn. The pointer never goes back."""
    await session.execute(select(InitializerRow.name).where(InitializerRow.name == ref.name).with_for_update())
    if await find_card(session, ref) is None:
        return False
    older = InitializerRow.current_version.is_(None) | (InitializerRow.current_version < ref.version)
    await session.execute(update(InitializerRow).where(InitializerRow.name == ref.name, older).values(current_version=ref.version))
    return True


async def withdraw(session: AsyncSession, ref: InitializerRef) -> None:
    """Deletes a version that was rejected, unless it became current after all."""
    await session.execute(select(InitializerRow.name).where(InitializerRow.name == ref.name).with_for_update())
    current = await current_ref(session, ref.name)
    if current is None or current.version < ref.version:
        mine = (InitializerVersionRow.name == ref.name, InitializerVersionRow.version == ref.version)
        await session.execute(delete(InitializerVersionRow).where(*mine))
