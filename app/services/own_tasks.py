"""A caller's own live task, or the one refusal for what is unknown, expired or another tenant's."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import tasks
from app.domain import Caller, Task
from app.errors import NotFound


async def require_task(session: AsyncSession, caller: Caller, task_id: str) -> Task:
    """A live task of the caller. Raises NotFound task_not_found, also for another tenant's: its existence is nobody's business."""
    task = await tasks.find_task(session, caller.key_id, task_id, datetime.now(UTC))
    if task is None:
        raise task_not_found(task_id)
    return task


def task_not_found(task_id: str) -> NotFound:
    """The one wording for a task that is unknown, expired or another tenant's."""
    return NotFound(f"There is no task {task_id[:100]!r}.", code="task_not_found")
