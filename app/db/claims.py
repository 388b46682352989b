"""The claim: adaptations that wait are one worker's from now on, and handed to it with what they are made from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, Row, Table, and_, bindparam, select, update

from app.db.adaptations import THESE, UNFINISHED
from app.db.rows import adaptation_from, inputs_from, support_from
from app.db.tables import ADAPTATION_COLUMNS, AdaptationRow, ExamplesRow, TaskRow
from app.domain import Adaptation, Array, Status, SupportSet

_ROWS, _TASKS, _EXAMPLES = (cast(Table, row.__table__) for row in (AdaptationRow, TaskRow, ExamplesRow))
_IS_MADE_FROM = and_(_EXAMPLES.c.task_id == _ROWS.c.task_id, _EXAMPLES.c.id.in_([_ROWS.c.support_id, _TASKS.c.query_id]))
_LOCK = (
    select(*ADAPTATION_COLUMNS, _TASKS.c.query_id, *(column for column in _EXAMPLES.c if column.name != "task_id"))
    .select_from(_ROWS.join(_TASKS, _TASKS.c.id == _ROWS.c.task_id).outerjoin(_EXAMPLES, _IS_MADE_FROM))
    .where(THESE, _ROWS.c.status.in_(UNFINISHED), _ROWS.c.attempts < bindparam("most"))
    .order_by(_ROWS.c.task_id, _ROWS.c.revision)  # two claims of the same rows do not wait in a circle
    .with_for_update(key_share=True, of=_ROWS)
)
"""A row for the support set of each adaptation, and another for the query set that came with its task, if one did."""
_CLAIM = update(_ROWS).where(THESE).values(status=Status.ADAPTING, attempts=_ROWS.c.attempts + 1, started_at=bindparam("at"))


@dataclass(frozen=True)
class Claimed:
    """An adaptation that is this process's to make, with what it is made from: its support set, and the queries that came with it."""

    adaptation: Adaptation
    support: SupportSet
    query: Array | None


def claim_all(connection: Connection, wanted: Sequence[tuple[str, int]], now: datetime, max_attempts: int) -> list[Claimed | None]:
    """Counts an attempt and takes the rows of these (task, revision), also from workers that may be dead; None for those that are final,
    gone or out of attempts."""
    found: defaultdict[tuple[str, int], list[Row[*tuple[Any, ...]]]] = defaultdict(list)
    for row in connection.execute(_LOCK, {"these": list(wanted), "most": max_attempts}):
        found[row.task_id, row.revision].append(row)
    if found:
        connection.execute(_CLAIM, {"these": list(found), "at": now})
    return [_claimed(found[key], now) if key in found else None for key in wanted]


def _claimed(found: Sequence[Row[*tuple[Any, ...]]], now: datetime) -> Claimed:
    before, examples = found[0], {row.id: cast(ExamplesRow, row) for row in found}
    support, query = examples.get(before.support_id), examples.get(before.query_id)
    if support is None:
        raise RuntimeError(f"Task {before.task_id} has no support set {before.support_id}. This is a bug.")
    waiting = adaptation_from(cast(AdaptationRow, before))
    adaptation = replace(waiting, status=Status.ADAPTING, attempts=waiting.attempts + 1, started_at=now)
    return Claimed(adaptation, support_from(support), inputs_from(query) if query is not None else None)
