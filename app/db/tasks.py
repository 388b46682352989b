"""Queries on tasks and their examples."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum, auto
from functools import cache
from typing import Any, cast

from sqlalchemy import Connection, bindparam, delete, insert, or_, select, tuple_
from sqlalchemy import Table as SqlTable
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningInsert

from app.db.rows import NewRows, inputs_from, support_from, task_from
from app.db.tables import AdaptationRow, ExamplesRow, InitializerRow, Table, TaskRow
from app.domain import Array, InitializerRef, Page, Status, SupportSet, Task

# The statements of every adaptation, made once: to put one together takes longer than to run it.
_TASKS, _EXAMPLES = cast(SqlTable, TaskRow.__table__), cast(SqlTable, ExamplesRow.__table__)
_INSERT_EXAMPLES, _INSERT_ADAPTATION = insert(_EXAMPLES), insert(cast(SqlTable, AdaptationRow.__table__))
_CURRENT = select(InitializerRow.__table__.c.current_version).where(InitializerRow.__table__.c.name == bindparam("named"))
_QUERY_ID = select(_TASKS.c.query_id).where(_TASKS.c.id == bindparam("of")).scalar_subquery()
_SUPPORT_AND_QUERY = select(_EXAMPLES).where(
    _EXAMPLES.c.task_id == bindparam("of"), or_(_EXAMPLES.c.id == bindparam("support"), _EXAMPLES.c.id == _QUERY_ID)
)


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


class Inserted(Enum):
    """What became of a new task: `EQUAL` when a task with its fingerprint exists, `OUTDATED` when its version is not current any more."""

    NEW = auto()
    EQUAL = auto()
    OUTDATED = auto()


def insert_new(connection: Connection, new: NewRows, current: InitializerRef | None = None) -> Inserted:
    """Inserts everything or, unless the answer is `NEW`, nothing.

    current: the version that must still be its initializer's current one; None where the service is to choose.
    """
    if current is not None and connection.scalar(_CURRENT, {"named": current.name}) != current.version:
        return Inserted.OUTDATED
    if connection.execute(_insert_task(connection.dialect.name), new.task).first() is None:
        return Inserted.EQUAL
    connection.execute(_INSERT_EXAMPLES, list(new.examples))
    connection.execute(_INSERT_ADAPTATION, new.adaptation)
    return Inserted.NEW


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
    await insert_ignored(session, ExamplesRow, values, ["task_id", "id"])


async def find_examples(session: AsyncSession, task_id: str, examples_id: str) -> ExamplesRow | None:
    """One support or query set."""
    return await session.get(ExamplesRow, (task_id, examples_id))


def find_support_and_query(connection: Connection, task_id: str, support_id: str) -> tuple[SupportSet | None, Array | None]:
    """A support set of the task, and the query set that came with it."""
    found = {row.id: cast(ExamplesRow, row) for row in connection.execute(_SUPPORT_AND_QUERY, {"of": task_id, "support": support_id})}
    support = found.pop(support_id, None)
    query = next(iter(found.values()), None)
    return support_from(support) if support is not None else None, inputs_from(query) if query is not None else None


@cache
def _insert_task(dialect: str) -> ReturningInsert[Any]:
    """The insert that gives nothing back when a task with the same fingerprint is there."""
    statement = sqlite.insert(_TASKS) if dialect == "sqlite" else postgresql.insert(_TASKS)
    return statement.on_conflict_do_nothing(index_elements=["fingerprint"]).returning(_TASKS.c.id)


def insert_ignore(connection: Connection, table: type[Table], values: dict[str, Any], unique: list[str]) -> bool:
    """INSERT ... ON CONFLICT DO NOTHING on both databases; True when the row is new."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    columns = {column.name: column for column in table.__table__.columns}
    statement = dialect.insert(table.__table__).values({columns[name]: value for name, value in values.items()})
    returning = statement.on_conflict_do_nothing(index_elements=unique).returning(*table.__table__.primary_key)
    return connection.execute(returning).first() is not None


async def insert_ignored(session: AsyncSession, table: type[Table], values: dict[str, Any], unique: list[str]) -> bool:
    """`insert_ignore` in a session's transaction."""
    return await (await session.connection()).run_sync(insert_ignore, table, values, unique)


async def _with_adaptations(session: AsyncSession, rows: Sequence[TaskRow]) -> list[Task]:
    wanted = {(row.id, revision) for row in rows for revision in (row.latest_revision, row.serving_revision) if revision is not None}
    key = tuple_(AdaptationRow.task_id, AdaptationRow.revision)
    found = (await session.scalars(select(AdaptationRow).where(key.in_(wanted)))).all() if wanted else []
    by_task: dict[str, dict[int, AdaptationRow]] = {row.id: {} for row in rows}
    for adaptation in found:
        by_task[adaptation.task_id][adaptation.revision] = adaptation
    # A row without its latest adaptation was deleted between the two statements.
    return [task_from(row, by_task[row.id]) for row in rows if row.latest_revision in by_task[row.id]]
