"""Queries on adaptations: the claim, the one finish, the give-back, and what the sweeper looks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.rows import repeated_adaptation
from app.db.tables import AdaptationRow, TaskRow
from app.db.tasks import lock_task
from app.domain import InitializerRef, StateKey, Status

UNFINISHED = (Status.QUEUED, Status.ADAPTING)


@dataclass(frozen=True)
class Finish:
    """What a finished adaptation leaves behind. made_by: the version that made it, where another may have been settled on meanwhile."""

    loss: tuple[float, ...]
    accuracy: tuple[float, ...]
    timings_ms: dict[str, float]
    embedding: bytes | None = None
    warm_start: dict[str, Any] | None = None
    start: bytes | None = None
    made_by: InitializerRef | None = None


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


async def claim(session: AsyncSession, task_id: str, revision: int, now: datetime, max_attempts: int) -> AdaptationRow | None:
    """Counts an attempt and takes the row, also from a worker that may be dead; None when it is final, gone or out of attempts."""
    taken = await session.scalars(
        update(AdaptationRow)
        .where(*_is(task_id, revision), AdaptationRow.status.in_(UNFINISHED), AdaptationRow.attempts < max_attempts)
        .values(status=Status.ADAPTING, attempts=AdaptationRow.attempts + 1, started_at=now)
        .returning(AdaptationRow)
        .execution_options(populate_existing=True)
    )
    return taken.first()


async def serving_before(session: AsyncSession, task_id: str) -> StateKey | None:
    """The state that the task serves now; a finish is about to supersede it."""
    serving = (AdaptationRow.task_id == TaskRow.id) & (AdaptationRow.revision == TaskRow.serving_revision)
    row = await session.scalar(select(AdaptationRow).join(TaskRow, serving).where(TaskRow.id == task_id))
    return StateKey(task_id, row.revision, InitializerRef(row.initializer_name, row.initializer_version)) if row is not None else None


async def finish_ready(session: AsyncSession, task_id: str, revision: int, now: datetime, finish: Finish) -> bool:
    """`adapting` -> `ready`, and the task serves it unless it serves a newer one. True for exactly one caller."""
    task = await lock_task(session, task_id)
    if task is None:
        return False
    won = await session.scalars(
        update(AdaptationRow)
        .where(*_is(task_id, revision), AdaptationRow.status == Status.ADAPTING, *_names(finish.made_by))
        .values(
            status=Status.READY,
            finished_at=now,
            loss=list(finish.loss),
            accuracy=list(finish.accuracy),
            timings_ms=finish.timings_ms,
            embedding=finish.embedding,
            warm_start=finish.warm_start,
            start=finish.start,
        )
        .returning(AdaptationRow.revision)
    )
    if won.first() is None:
        return False
    before = task.serving_revision
    if before is None or before < revision:
        task.serving_revision = revision
        await session.flush()
        if before is not None:
            await _forget_starts(session, task_id, before)
    return True


async def _forget_starts(session: AsyncSession, task_id: str, before: int) -> None:
    """Drops the weights that revisions before this one started from, most of what they weigh. That of the revision that has served until
    now is kept: requests that began with it may yet make its state again."""
    old = (AdaptationRow.task_id == task_id, AdaptationRow.revision < before, AdaptationRow.start.is_not(None))
    await session.execute(update(AdaptationRow).where(*old).values(start=None))


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


def _names(ref: InitializerRef | None) -> tuple[ColumnElement[bool], ...]:
    return () if ref is None else (AdaptationRow.initializer_name == ref.name, AdaptationRow.initializer_version == ref.version)


def _unfinished(before: datetime) -> Select[str, int]:
    touched = func.coalesce(AdaptationRow.started_at, AdaptationRow.created_at)
    return select(AdaptationRow.task_id, AdaptationRow.revision).where(AdaptationRow.status.in_(UNFINISHED), touched <= before)
