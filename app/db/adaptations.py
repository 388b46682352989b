"""Queries on adaptations: the claim, the one finish, the give-back, and what the sweeper looks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from sqlalchemy import ColumnElement, Connection, Select, Table, bindparam, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.rows import adaptation_from, repeated_adaptation
from app.db.tables import AdaptationRow, TaskRow
from app.db.tasks import lock_task
from app.domain import Adaptation, InitializerRef, StateKey, Status

UNFINISHED = (Status.QUEUED, Status.ADAPTING)
FINISH = ("finished_at", "loss", "accuracy", "timings_ms", "embedding", "warm_start", "start")
"""What a finished adaptation leaves behind, by column."""

# The statements of every adaptation, made once: to put one together takes longer than to run it.
_ROWS, _TASKS = cast(Table, AdaptationRow.__table__), cast(Table, TaskRow.__table__)
_MINE = (_ROWS.c.task_id == bindparam("of"), _ROWS.c.revision == bindparam("nth"))
_CLAIM = (
    update(_ROWS)
    .where(*_MINE, _ROWS.c.status.in_(UNFINISHED), _ROWS.c.attempts < bindparam("most"))
    .values(status=Status.ADAPTING, attempts=_ROWS.c.attempts + 1, started_at=bindparam("at"))
    .returning(*(column for column in _ROWS.c if column.name not in {"embedding", "start"}))
)
_LOCK_SERVING = select(_TASKS.c.serving_revision).where(_TASKS.c.id == bindparam("of")).with_for_update(key_share=True)
_SERVE = update(_TASKS).where(_TASKS.c.id == bindparam("of")).values(serving_revision=bindparam("nth"))
_BY = (_ROWS.c.initializer_name == bindparam("by_name"), _ROWS.c.initializer_version == bindparam("by_version"))
_FINISH = (
    update(_ROWS)
    .where(*_MINE, *_BY, _ROWS.c.status == Status.ADAPTING)
    .values(status=Status.READY, **{name: bindparam(name, type_=_ROWS.c[name].type) for name in FINISH})
    .returning(_ROWS.c.revision)
)


class Origin(NamedTuple):
    """What an adaptation is made from: the id of its support set, and the weights it starts from when they are not the usual ones.

    is_incomplete: its start is forgotten, because two other revisions have served since; it cannot be made again.
    """

    support_id: str
    start: bytes | None
    is_incomplete: bool


async def find_adaptation(session: AsyncSession, task_id: str, revision: int) -> AdaptationRow | None:
    """One row, read anew."""
    return await session.get(AdaptationRow, (task_id, revision), populate_existing=True)


async def find_origin(session: AsyncSession, task_id: str, revision: int) -> Origin | None:
    """See `Origin`; None when the task is gone."""
    columns = (AdaptationRow.support_id, AdaptationRow.start, AdaptationRow.warm_start)
    for support_id, start, report in await session.execute(select(*columns).where(*_is(task_id, revision))):
        return Origin(support_id, start, start is None and report is not None and report["kept"])
    return None


def claim(connection: Connection, task_id: str, revision: int, now: datetime, max_attempts: int) -> tuple[Adaptation, str] | None:
    """Counts an attempt and takes the row, also from a worker that may be dead: the adaptation, and the id of its support set.

    None when it is final, gone or out of attempts.
    """
    row = connection.execute(_CLAIM, {"of": task_id, "nth": revision, "at": now, "most": max_attempts}).first()
    return (adaptation_from(cast(AdaptationRow, row)), row.support_id) if row is not None else None


def serving_before(connection: Connection, task_id: str) -> StateKey | None:
    """The state that the task serves now; a finish is about to supersede it."""
    serving = (_ROWS.c.task_id == _TASKS.c.id) & (_ROWS.c.revision == _TASKS.c.serving_revision)
    columns = (_ROWS.c.revision, _ROWS.c.initializer_name, _ROWS.c.initializer_version)
    row = connection.execute(select(*columns).join(_TASKS, serving).where(_TASKS.c.id == task_id)).first()
    return StateKey(task_id, row.revision, InitializerRef(row.initializer_name, row.initializer_version)) if row is not None else None


def finish_ready(connection: Connection, finished: Adaptation, values: Mapping[str, Any]) -> bool:
    """`adapting` -> `ready`, and the task serves it unless it serves a newer one. True for exactly one caller.

    values: the columns that a finish fills, `FINISH`. Only a row that still names the version of `finished` is won: another may have been
    settled on meanwhile.
    """
    ref, mine = finished.initializer, {"of": finished.task_id, "nth": finished.revision}
    task = connection.execute(_LOCK_SERVING, {"of": finished.task_id}).first()
    if task is None or connection.execute(_FINISH, {**mine, "by_name": ref.name, "by_version": ref.version, **values}).first() is None:
        return False
    before: int | None = task.serving_revision
    if before is None or before < finished.revision:
        connection.execute(_SERVE, mine)
    if before is not None and before < finished.revision:
        _forget_starts(connection, finished.task_id, before)
    return True


def _forget_starts(connection: Connection, task_id: str, before: int) -> None:
    """Drops the weights that revisions before this one started from, most of what they weigh. That of the revision that has served until
    now is kept: requests that began with it may yet make its state again."""
    old = (_ROWS.c.task_id == task_id, _ROWS.c.revision < before, _ROWS.c.start.is_not(None))
    connection.execute(update(_ROWS).where(*old).values(start=None))


async def finish_failed(session: AsyncSession, task_id: str, revision: int, now: datetime, code: str, detail: str) -> bool:
    """Unfinished -> `failed`; the fingerprint is cleared, so that an equal request tries again. True for exactly one caller."""
    if await lock_task(session, task_id) is None:
        return False
    won = await session.scalars(
        update(AdaptationRow)
        .where(*_is(task_id, revision), AdaptationRow.status.in_(UNFINISHED))
        .values(status=Status.FAILED, finished_at=now, error_code=code, error_detail=detail)
        .returning(AdaptationRow.revision)
    )
    if won.first() is None:
        return False
    await session.execute(update(TaskRow).where(TaskRow.id == task_id).values(fingerprint=None))
    return True


async def release(session: AsyncSession, task_id: str, revision: int, attempt: int | None) -> bool:
    """`adapting` -> `queued`, the attempt not counted. With `attempt`, only while nobody else has claimed the row since."""
    mine = [AdaptationRow.attempts == attempt] if attempt is not None else []
    given = await session.scalars(
        update(AdaptationRow)
        .where(*_is(task_id, revision), AdaptationRow.status == Status.ADAPTING, AdaptationRow.attempts > 0, *mine)
        .values(status=Status.QUEUED, attempts=AdaptationRow.attempts - 1, started_at=None)
        .returning(AdaptationRow.revision)
    )
    return given.first() is not None


async def exhausted(session: AsyncSession, before: datetime, max_attempts: int) -> list[tuple[str, int]]:
    """Rows that were started max_attempts times, last before `before`, and never ended."""
    query = _unfinished(before).where(AdaptationRow.attempts >= max_attempts)
    return [(task_id, revision) for task_id, revision in await session.execute(query)]


async def unfinished(session: AsyncSession, before: datetime, max_attempts: int, limit: int) -> list[tuple[str, int]]:
    """Rows touched last before `before`, oldest first: their job may be lost."""
    query = _unfinished(before).where(AdaptationRow.attempts < max_attempts).order_by(AdaptationRow.created_at).limit(limit)
    return [(task_id, revision) for task_id, revision in await session.execute(query)]


async def count_unfinished(session: AsyncSession) -> int:
    """How many adaptations are accepted and not ended."""
    query = select(func.count()).select_from(AdaptationRow).where(AdaptationRow.status.in_(UNFINISHED))
    return await session.scalar(query) or 0


async def store_choice(
    session: AsyncSession, task_id: str, revision: int, ref: InitializerRef, selection: dict[str, Any]
) -> AdaptationRow | None:
    """Gives a row its initializer, unless another worker has chosen meanwhile; the row as it then is, None when the task is gone."""
    if await lock_task(session, task_id) is None:
        return None
    row = await find_adaptation(session, task_id, revision)
    if row is not None and row.selection is not None and row.selection["chosen"] is None:
        row.initializer_name, row.initializer_version, row.selection = ref.name, ref.version, selection
        await session.flush()
    return row


async def replace_choice(
    session: AsyncSession, task_id: str, revision: int, failed: InitializerRef, ref: InitializerRef, selection: dict[str, Any]
) -> AdaptationRow | None:
    """Gives an unfinished row another initializer than the one that failed, unless another worker has done so; the row as it then is.
    None when it is finished or gone."""
    if await lock_task(session, task_id) is None:
        return None
    row = await find_adaptation(session, task_id, revision)
    if row is None or row.status not in UNFINISHED:
        return None
    if (row.initializer_name, row.initializer_version) == (failed.name, failed.version):
        row.initializer_name, row.initializer_version, row.selection = ref.name, ref.version, selection
        await session.flush()
    return row


async def repeat_on(session: AsyncSession, task_id: str, ref: InitializerRef, now: datetime) -> int | None:
    """Queues the latest support set on another version; the new revision, or None when it is there already or the task is gone."""
    task = await lock_task(session, task_id)
    latest = await find_adaptation(session, task_id, task.latest_revision) if task is not None else None
    if task is None or latest is None or latest.initializer_name != ref.name or latest.initializer_version >= ref.version:
        return None
    task.latest_revision += 1
    session.add(repeated_adaptation(latest, task.latest_revision, ref, now))
    await session.flush()
    return task.latest_revision


async def tasks_behind(session: AsyncSession, ref: InitializerRef, now: datetime, after: str, limit: int) -> Sequence[str]:
    """Live tasks, by id, whose latest adaptation is of an older version of this initializer."""
    latest = (AdaptationRow.task_id == TaskRow.id) & (AdaptationRow.revision == TaskRow.latest_revision)
    behind = (AdaptationRow.initializer_name == ref.name) & (AdaptationRow.initializer_version < ref.version)
    alive = or_(TaskRow.expires_at.is_(None), TaskRow.expires_at > now)
    query = select(TaskRow.id).join(AdaptationRow, latest).where(behind, alive, TaskRow.id > after).order_by(TaskRow.id).limit(limit)
    return (await session.scalars(query)).all()


async def versions_in_use(session: AsyncSession) -> set[InitializerRef]:
    """Versions that the latest or the serving adaptation of some task names."""
    current = or_(AdaptationRow.revision == TaskRow.latest_revision, AdaptationRow.revision == TaskRow.serving_revision)
    join = (AdaptationRow.task_id == TaskRow.id) & current
    query = select(AdaptationRow.initializer_name, AdaptationRow.initializer_version).join(TaskRow, join).distinct()
    return {InitializerRef(name, version) for name, version in await session.execute(query)}


def _is(task_id: str, revision: int) -> tuple[ColumnElement[bool], ...]:
    return AdaptationRow.task_id == task_id, AdaptationRow.revision == revision


def _unfinished(before: datetime) -> Select[str, int]:
    touched = func.coalesce(AdaptationRow.started_at, AdaptationRow.created_at)
    return select(AdaptationRow.task_id, AdaptationRow.revision).where(AdaptationRow.status.in_(UNFINISHED), touched <= before)
