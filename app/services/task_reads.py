"""Reads of tasks: those asked for while one is under way share the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection

from app.db import tasks
from app.db.initializers import current_versions
from app.db.session import Database
from app.domain import Caller, InitializerRef, Task
from app.services.own_tasks import task_not_found


@dataclass(frozen=True)
class TaskRead:
    """A live task as it stands, and the current version of its latest revision's initializer, if there is one."""

    task: Task
    current: InitializerRef | None


async def read_task(database: Database, caller: Caller, task_id: str) -> TaskRead:
    """The caller's live task. A thousand predictions of tasks that were just forgotten, or a thousand clients who wait, cost a few reads.

    Raises NotFound task_not_found, Unavailable.
    """
    found = await database.fetch(_read_all, (caller.key_id, task_id))
    if found is None:
        raise task_not_found(task_id)
    return found


def _read_all(connection: Connection, wanted: Sequence[tuple[str, str]]) -> list[TaskRead | None]:
    current = current_versions(connection)
    found = tasks.find_all(connection, wanted, datetime.now(UTC))
    return [TaskRead(task, current.get(task.latest.initializer.name)) if task is not None else None for task in found]
