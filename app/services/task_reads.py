"""Reads of tasks: those asked for while one is under way share the next."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from app.db import initializers as registry
from app.db import tasks
from app.db.session import Database
from app.domain import Caller, InitializerRef, Task
from app.joined_reads import JoinedReads
from app.services.own_tasks import task_not_found

_Wanted = tuple[str, str]  # the owner's key id, and the task's id
_MAX_TASKS = 256
"""Of one read: rows become objects on the event loop, about 0.1 ms a task."""


@dataclass(frozen=True)
class TaskRead:
    """A live task as it stands, and the current version of its latest revision's initializer, if there is one."""

    task: Task
    current: InitializerRef | None


class TaskReads:
    """A thousand predictions of tasks that were just forgotten, or a thousand clients who wait, cost a few reads, not a thousand."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reads: JoinedReads[_Wanted, TaskRead | None] = JoinedReads(self._read_all, _MAX_TASKS)

    async def read(self, caller: Caller, task_id: str) -> TaskRead:
        """The caller's live task. Raises NotFound task_not_found, Unavailable."""
        found = await self._reads.get((caller.key_id, task_id))
        if found is None:
            raise task_not_found(task_id)
        return found

    async def _read_all(self, wanted: Sequence[_Wanted]) -> list[TaskRead | None]:
        ids_of: defaultdict[str, list[str]] = defaultdict(list)
        for owner, task_id in wanted:
            ids_of[owner].append(task_id)
        async with self._database.read() as session:
            now = datetime.now(UTC)
            found = [task for owner, ids in ids_of.items() for task in await tasks.find_tasks(session, owner, ids, now)]
            current = {ref.name: ref for ref in await registry.current_refs(session)}
        reads = {(task.owner, task.id): TaskRead(task, current.get(task.latest.initializer.name)) for task in found}
        return [reads.get(each) for each in wanted]
