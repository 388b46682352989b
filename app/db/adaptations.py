"""Queries on adaptations: the one finish, the give-back, and what the sweeper looks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, bindparam, func, null, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.rows import repeated_adaptation
from app.db.tables import AdaptationRow, TaskRow
from app.db.tasks import lock_task
from app.domain import Adaptation, InitializerRef, StateKey, Status

UNFINISHED = (Status.QUEUED, Status.ADAPTING)
FINISH = ("finished_at", "loss", "accuracy", "timings_ms", "embedding", "warm_start", "start")
"""What a finished adaptation leaves behind, by column."""

# The statements of every adaptation, made once: to put one together takes longer than to run it.
_ROWS, _TASKS = cast(Table, AdaptationRow.__table__), cast(Table, TaskRow.__table__)
_ONE = (_ROWS.c.task_id == bindparam("of"), _ROWS.c.revision == bindparam("nth"))
THESE = tuple_(_ROWS.c.task_id, _ROWS.c.revision).in_(bindparam("these", expanding=True))
_VERSION = (_ROWS.c.revision, _ROWS.c.initializer_name, _ROWS.c.initializer_version)
_VERSIONS = select(_ROWS.c.task_id, *_VERSION).where(THESE)
_LOCK_ADAPTING = (
    select(_TASKS.c.id, _TASKS.c.serving_revision, *_VERSION)
    .join_from(_TASKS, _ROWS, _ROWS.c.task_id == _TASKS.c.id)
    .where(THESE, _ROWS.c.status == Status.ADAPTING)
    .order_by(_TASKS.c.id)  # two processes that lock the same tasks do not wait in a circle
    .with_for_update(key_share=True)  # the task, then its adaptation, as everybody
)
_SERVE = update(_TASKS).where(_TASKS.c.id == bindparam("of")).values(serving_revision=bindparam("nth"))
_FINISH = update(_ROWS).where(*_ONE).values(status=Status.READY, **{name: bindparam(name, type_=_ROWS.c[name].type) for name in FINISH})
_OLD = (_ROWS.c.task_id == bindparam("of"), _ROWS.c.revision < bindparam("before"), _ROWS.c.start.is_not(None))
_FORGET_STARTS = update(_ROWS).where(*_OLD).values(start=null())


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


class Finish(NamedTuple):
    """A finished adaptation, and the columns that it fills, `FINISH`."""

    adaptation: Adaptation
    values: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, int]:
        """Which row it ends."""
        return self.adaptation.task_id, self.adaptation.revision


class Finished(NamedTuple):
    """What became of a finish. won: true for exactly one of those that end the same row. before: the state that the task served."""

    won: bool
    before: StateKey | None = None


def finish_all(connection: Connection, finishes: Sequence[Finish]) -> list[Finished]:
    """`adapting` -> `ready`, and each task serves it unless it serves a newer one; of several of one task, one after the other.

    Only a row that still names the version of its adaptation is won: another may have been settled on meanwhile.
    """
    first = {each.adaptation.task_id: each for each in reversed(finishes)}
    rest = [each for each in finishes if first[each.adaptation.task_id] is not each]
    outcomes = dict(zip(map(id, first.values()), _finish_distinct(connection, list(first.values())), strict=True))
    if rest:
        outcomes |= dict(zip(map(id, rest), finish_all(connection, rest), strict=True))
    return [outcomes[id(each)] for each in finishes]


def _finish_distinct(connection: Connection, finishes: Sequence[Finish]) -> list[Finished]:
    adapting = {row.id: row for row in connection.execute(_LOCK_ADAPTING, {"these": [each.key for each in finishes]})}
    won = [each for each in finishes if _is_of(adapting.get(each.adaptation.task_id), each.adaptation)]
    if not won:
        return [Finished(won=False)] * len(finishes)
    serving = {row.id: row.serving_revision for row in adapting.values() if row.serving_revision is not None}
    before = _find_states(connection, list(serving.items()))
    connection.execute(_FINISH, [{"of": each.adaptation.task_id, "nth": each.adaptation.revision, **each.values} for each in won])
    _serve_all(connection, [each.key for each in won if serving.get(each.adaptation.task_id, 0) < each.adaptation.revision], before)
    winners = {each.key for each in won}
    return [Finished(each.key in winners, before.get(each.adaptation.task_id)) for each in finishes]


def _find_states(connection: Connection, these: Sequence[tuple[str, int]]) -> dict[str, StateKey]:
    """By task, the states that these (task, revision) name."""
    rows = connection.execute(_VERSIONS, {"these": these}) if these else ()
    return {row.task_id: StateKey(row.task_id, row.revision, InitializerRef(row.initializer_name, row.initializer_version)) for row in rows}


def _is_of(row: Row[*tuple[Any, ...]] | None, adaptation: Adaptation) -> bool:
    return row is not None and (row.initializer_name, row.initializer_version) == adaptation.initializer


def _serve_all(connection: Connection, keys: Sequence[tuple[str, int]], before: Mapping[str, StateKey]) -> None:
    """The tasks serve these revisions, and drop the weights that older ones started from, most of what those weigh.

    Those of the revision that has served until now are kept: requests that began with it may yet make its state again.
    """
    if keys:
        connection.execute(_SERVE, [{"of": task_id, "nth": revision} for task_id, revision in keys])
    if superseded := [{"of": task_id, "before": before[task_id].revision} for task_id, _ in keys if task_id in before]:
        connection.execute(_FORGET_STARTS, superseded)


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
