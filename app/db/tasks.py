"""Queries on tasks and their examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum, auto
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple, cast

from sqlalchemy import Connection, Row, Table, bindparam, delete, insert, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningInsert

from app.db.initializers import current_versions
from app.db.inserts import insert_ignored, insert_ignoring
from app.db.rows import NewRows, task_from
from app.db.tables import ADAPTATION_COLUMNS, AdaptationRow, ExamplesRow, InitializerRow, TaskRow
from app.domain import InitializerRef, Page, Status, Task

# The statements of every adaptation and of most predictions, made once: to put one together takes longer than to run it.
_TASKS, _ROWS, _EXAMPLES, _POINTERS = (cast(Table, row.__table__) for row in (TaskRow, AdaptationRow, ExamplesRow, InitializerRow))
_LABELS = {"metadata": "task_metadata", "created_at": "task_created_at"}
_TASK_COLUMNS = tuple(column.label(_LABELS.get(column.name, column.name)) for column in _TASKS.c)
_IS_SHOWN = (_ROWS.c.task_id == _TASKS.c.id) & _ROWS.c.revision.in_([_TASKS.c.latest_revision, _TASKS.c.serving_revision])
_SHOWN = select(*_TASK_COLUMNS, *ADAPTATION_COLUMNS, _POINTERS.c.current_version).select_from(
    _TASKS.join(_ROWS, _IS_SHOWN).outerjoin(_POINTERS, _POINTERS.c.name == _ROWS.c.initializer_name)
)
"""A row for each task's latest adaptation and another for its serving one, if these are two. A single statement, so it finds one moment."""
_FIND = _SHOWN.where(
    tuple_(_TASKS.c.owner, _TASKS.c.id).in_(bindparam("these", expanding=True)),
    or_(_TASKS.c.expires_at.is_(None), _TASKS.c.expires_at > bindparam("now")),
)
_SHOW = _SHOWN.where(_TASKS.c.id.in_(bindparam("tasks", expanding=True)))
_INSERT_EXAMPLES, _INSERT_ADAPTATION = insert(_EXAMPLES), insert(_ROWS)


def _alive(now: datetime) -> Any:
    return or_(TaskRow.expires_at.is_(None), TaskRow.expires_at > now)


class FoundTask(NamedTuple):
    """A live task as it stands, and the current version of its latest revision's initializer, if there is one."""

    task: Task
    current: InitializerRef | None


def find_all(connection: Connection, wanted: Sequence[tuple[str, str]], now: datetime) -> list[FoundTask | None]:
    """The live task of each (owner, task id); None where that owner has none. One statement."""
    found = _assemble(connection.execute(_FIND, {"these": list(wanted), "now": now}))
    return [each if (each := found.get(task_id)) is not None and each.task.owner == owner else None for owner, task_id in wanted]


async def find_tasks(session: AsyncSession, owner: str, task_ids: Sequence[str], now: datetime) -> list[Task | None]:
    """Each of these tasks, None where it is not alive or not this owner's."""
    connection = await session.connection()
    found = await connection.run_sync(find_all, [(owner, task_id) for task_id in task_ids], now)
    return [each.task if each is not None else None for each in found]


async def find_task(session: AsyncSession, owner: str, task_id: str, now: datetime) -> Task | None:
    """A live task of this owner."""
    return (await find_tasks(session, owner, [task_id], now))[0]


async def find_owner(session: AsyncSession, task_id: str) -> str | None:
    """Whose task this is."""
    return await session.scalar(select(TaskRow.owner).where(TaskRow.id == task_id))


async def find_by_fingerprint(session: AsyncSession, fingerprint: str, now: datetime) -> Task | None:
    """The live task made by an equal request."""
    row = (await session.execute(select(TaskRow.owner, TaskRow.id).where(TaskRow.fingerprint == fingerprint))).first()
    return await find_task(session, row.owner, row.id, now) if row is not None else None


async def list_tasks(
    session: AsyncSession, owner: str, now: datetime, *, after: str | None, limit: int, status: Status | None, name: str | None
) -> Page[Task]:
    """Newest first; reads one row more than asked to know whether more follow."""
    query = select(_TASKS.c.id).where(_TASKS.c.owner == owner, _alive(now)).order_by(_TASKS.c.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(_TASKS.c.id < after)
    if name is not None:
        query = query.where(_TASKS.c.name == name)
    if status is not None:
        latest = (_ROWS.c.task_id == _TASKS.c.id) & (_ROWS.c.revision == _TASKS.c.latest_revision)
        query = query.join(_ROWS, latest).where(_ROWS.c.status == status)
    ids = (await session.scalars(query)).all()
    found = _assemble(await session.execute(_SHOW, {"tasks": ids[:limit]}))
    return Page(rows=tuple(found[task_id].task for task_id in ids[:limit] if task_id in found), has_more=len(ids) > limit)


class Inserted(Enum):
    """What became of a new task: `EQUAL` when a task with its fingerprint exists, `OUTDATED` when its version is not current any more."""

    NEW = auto()
    EQUAL = auto()
    OUTDATED = auto()


class NewTask(NamedTuple):
    """A task to insert. current: the version that must still be its initializer's current one; None where the service is to choose."""

    rows: NewRows
    current: InitializerRef | None = None


def insert_all(connection: Connection, new: Sequence[NewTask]) -> list[Inserted]:
    """Inserts of each everything or, unless its answer is `NEW`, nothing. Of equal ones that meet here, one is new."""
    versions = current_versions(connection)
    valid = [each.rows for each in new if each.current is None or versions.get(each.current.name) == each.current]
    inserted = _insert_tasks(connection, [rows.task for rows in valid])
    stored = [rows for rows in valid if rows.task["id"] in inserted]
    if stored:
        connection.execute(_INSERT_EXAMPLES, [values for rows in stored for values in rows.examples])
        connection.execute(_INSERT_ADAPTATION, [rows.adaptation for rows in stored])
    known = {rows.task["id"]: Inserted.NEW if rows.task["id"] in inserted else Inserted.EQUAL for rows in valid}
    return [known.get(each.rows.task["id"], Inserted.OUTDATED) for each in new]


def _insert_tasks(connection: Connection, tasks: Sequence[dict[str, Any]]) -> set[str]:
    """The ids of those whose fingerprint was not there. In its order: two processes that insert the same ones do not wait in a circle."""
    if not tasks:
        return set()
    return set(connection.scalars(_insert_task(connection.dialect.name), sorted(tasks, key=itemgetter("fingerprint"))))


async def lock_task(session: AsyncSession, task_id: str) -> TaskRow | None:
    """The row, locked until the transaction ends. Whoever changes a task's adaptations locks the task first, but for
    the claim, which counts an attempt: where that meets a finish of many, PostgreSQL may end one of the two, which is then run again."""
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


@cache
def _insert_task(dialect: str) -> ReturningInsert[Any]:
    """The insert that gives nothing back when a task with the same fingerprint is there."""
    return insert_ignoring(dialect, _TASKS, ["fingerprint"]).returning(_TASKS.c.id)


def _assemble(rows: Iterable[Row[Any]]) -> dict[str, FoundTask]:
    """The tasks by id, of what `_SHOWN` selects."""
    by_task: defaultdict[str, dict[int, Row[Any]]] = defaultdict(dict)
    for row in rows:
        by_task[row.id][row.revision] = row
    return {task_id: _found(revisions) for task_id, revisions in by_task.items()}


def _found(revisions: Mapping[int, Row[Any]]) -> FoundTask:
    task = task_from(revisions)
    version = revisions[task.latest.revision].current_version
    return FoundTask(task, InitializerRef(task.latest.initializer.name, version) if version is not None else None)
