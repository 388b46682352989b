"""Queries on tasks and their examples."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, or_, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.rows import task_from
from app.db.tables import AdaptationRow, ExamplesRow, Table, TaskRow
from app.domain import Page, Status, Task


def _alive(now: datetime) -> Any:
    return or_(TaskRow.expires_at.is_(None), TaskRow.expires_at > now)


async def find_task(session: AsyncSession, owner: str, task_id: str, now: datetime) -> Task | None:
    """A live task of this owner."""
    rows = await session.scalars(select(TaskRow).where(TaskRow.id == task_id, TaskRow.owner == owner, _alive(now)))
    return next(iter(await _with_adaptations(session, rows.all())), None)


async def find_owner(session: AsyncSession, task_id: str) -> str | None:
    """Whose task this is."""
    return await session.scalar(select(TaskRow.owner).where(TaskRow.id == task_id))


async def find_tasks(session: AsyncSession, owner: str, task_ids: Sequence[str], now: datetime) -> list[Task]:
    """Those of these tasks that are alive and this owner's, in no order."""
    rows = await session.scalars(select(TaskRow).where(TaskRow.id.in_(task_ids), TaskRow.owner == owner, _alive(now)))
    return await _with_adaptations(session, rows.all())


async def find_by_fingerprint(session: AsyncSession, fingerprint: str, now: datetime) -> Task | None:
    """The live task made by an equal request."""
    rows = await session.scalars(select(TaskRow).where(TaskRow.fingerprint == fingerprint, _alive(now)))
    return next(iter(await _with_adaptations(session, rows.all())), None)


async def list_tasks(
    session: AsyncSession, owner: str, now: datetime, *, after: str | None, limit: int, status: Status | None, name: str | None
) -> Page[Task]:
    """Newest first; reads one row more than asked to know whether more follow."""
    query = select(TaskRow).where(TaskRow.owner == owner, _alive(now)).order_by(TaskRow.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(TaskRow.id < after)
    if name is not None:
        query = query.where(TaskRow.name == name)
    if status is not None:
        latest = (AdaptationRow.task_id == TaskRow.id) & (AdaptationRow.revision == TaskRow.latest_revision)
        query = query.join(AdaptationRow, latest).where(AdaptationRow.status == status)
    rows = (await session.scalars(query)).all()
    return Page(rows=tuple(await _with_adaptations(session, rows[:limit])), has_more=len(rows) > limit)


async def insert_task(session: AsyncSession, values: dict[str, Any]) -> bool:
    """False when a task with the same fingerprint exists, committed in the meantime by somebody else."""
    return await insert_ignore(session, TaskRow, values, ["fingerprint"])


async def lock_task(session: AsyncSession, task_id: str) -> TaskRow | None:
    """The row, locked until the transaction ends. Whoever changes a task's adaptations locks the task first: no deadlocks."""
    return await session.scalar(
        select(TaskRow).where(TaskRow.id == task_id).with_for_update(key_share=True).execution_options(populate_existing=True)
    )


async def delete_task(session: AsyncSession, owner: str, task_id: str, now: datetime) -> bool:
    """Deletes with everything that hangs on it; False when this owner has no such live task."""
    done = await session.scalars(delete(TaskRow).where(TaskRow.id == task_id, TaskRow.owner == owner, _alive(now)).returning(TaskRow.id))
    return done.first() is not None


async def delete_expired(session: AsyncSession, now: datetime, limit: int) -> Sequence[str]:
    """Deletes tasks past their time; their ids."""
    expired = select(TaskRow.id).where(TaskRow.expires_at <= now).order_by(TaskRow.expires_at).limit(limit).scalar_subquery()
    return (await session.scalars(delete(TaskRow).where(TaskRow.id.in_(expired)).returning(TaskRow.id))).all()


async def delete_expired_fingerprint(session: AsyncSession, fingerprint: str, now: datetime) -> None:
    """Makes room for an equal task when the old one is past its time and only not swept yet."""
    await session.execute(delete(TaskRow).where(TaskRow.fingerprint == fingerprint, TaskRow.expires_at <= now))


async def insert_examples(session: AsyncSession, values: dict[str, Any]) -> None:
    """Stores a support or query set; the same content of the same task is stored once."""
    await insert_ignore(session, ExamplesRow, values, ["task_id", "id"])


async def find_examples(session: AsyncSession, task_id: str, examples_id: str) -> ExamplesRow | None:
    """One support or query set."""
    return await session.get(ExamplesRow, (task_id, examples_id))


async def find_support_and_query(session: AsyncSession, task_id: str, support_id: str) -> tuple[ExamplesRow | None, ExamplesRow | None]:
    """A support set of the task, and the query set that came with it."""
    query_id = select(TaskRow.query_id).where(TaskRow.id == task_id).scalar_subquery()
    wanted = or_(ExamplesRow.id == support_id, ExamplesRow.id == query_id)
    found = {row.id: row for row in await session.scalars(select(ExamplesRow).where(ExamplesRow.task_id == task_id, wanted))}
    support = found.pop(support_id, None)
    return support, next(iter(found.values()), None)


async def insert_ignore(session: AsyncSession, table: type[Table], values: dict[str, Any], unique: list[str]) -> bool:
    """INSERT ... ON CONFLICT DO NOTHING on both databases; True when the row is new."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    columns = {column.name: column for column in table.__table__.columns}
    statement = dialect.insert(table).values({columns[name]: value for name, value in values.items()})
    returning = statement.on_conflict_do_nothing(index_elements=unique).returning(*table.__table__.primary_key)
    return (await session.execute(returning)).first() is not None


async def _with_adaptations(session: AsyncSession, rows: Sequence[TaskRow]) -> list[Task]:
    wanted = {(row.id, revision) for row in rows for revision in (row.latest_revision, row.serving_revision) if revision is not None}
    key = tuple_(AdaptationRow.task_id, AdaptationRow.revision)
    found = (await session.scalars(select(AdaptationRow).where(key.in_(wanted)))).all() if wanted else []
    by_task: dict[str, dict[int, AdaptationRow]] = {row.id: {} for row in rows}
    for adaptation in found:
        by_task[adaptation.task_id][adaptation.revision] = adaptation
    # A row without its latest adaptation was deleted between the two statements.
    return [task_from(row, by_task[row.id]) for row in rows if row.latest_revision in by_task[row.id]]
