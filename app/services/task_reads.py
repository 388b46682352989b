"""Reads of tasks: those asked for while one is under way share the next."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection

from app.db import tasks
from app.db.session import Database
from app.db.tasks import FoundTask
from app.domain import Caller
from app.services.own_tasks import task_not_found


async def read_task(database: Database, caller: Caller, task_id: str) -> FoundTask:
    """The caller's live task. A thousand predictions of tasks that were just forgotten, or a thousand clients who wait, cost a few reads.

    Raises NotFound task_not_found, Unavailable.
    """
    found = await database.fetch(_read_all, (caller.key_id, task_id))
    if found is None:
        raise task_not_found(task_id)
    return found


def _read_all(connection: Connection, wanted: Sequence[tuple[str, str]]) -> list[FoundTask | None]:
    return tasks.find_all(connection, wanted, datetime.now(UTC))
