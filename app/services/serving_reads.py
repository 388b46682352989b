"""Reads of what serves tasks: those asked for while one is under way share the next."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from app.db import initializers as registry
from app.db import tasks
from app.db.session import Database
from app.domain import Caller, InitializerRef, Task
from app.services.own_tasks import task_not_found

_Wanted = tuple[str, str]  # the owner's key id, and the task's id
_MAX_TASKS = 256
"""Of one read: rows become objects on the event loop, about 0.1 ms a task."""


@dataclass(frozen=True)
class TaskRead:
    """A live task as it stands, and the current version of its latest revision's initializer, if there is one."""

    task: Task
    current: InitializerRef | None


class ServingReads:
    """A thousand predictions of tasks that were just forgotten cost a few reads, not a thousand.

    A read never begins before it was asked for, so nobody is told what was true earlier. One owner: the event loop.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[_Wanted, asyncio.Future[TaskRead | None]] = {}
        self._serving: asyncio.Task[None] | None = None

    async def read(self, caller: Caller, task_id: str) -> TaskRead:
        """The caller's live task. Raises NotFound task_not_found, Unavailable."""
        wanted = caller.key_id, task_id
        if wanted not in self._waiting:
            self._waiting[wanted] = asyncio.get_running_loop().create_future()
        waiter = self._waiting[wanted]
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve(), name="read what serves")
        found = await asyncio.shield(waiter)  # a caller who leaves harms none of those who wait for the same task
        if found is None:
            raise task_not_found(task_id)
        return found

    async def _serve(self) -> None:
        """One read after another, until nobody waits."""
        while self._waiting:
            batch = {wanted: self._waiting.pop(wanted) for wanted in list(self._waiting)[:_MAX_TASKS]}
            try:
                found = await self._read_all(batch)
            except BaseException as fault:
                _fail(batch.values(), fault)
                if not isinstance(fault, Exception):
                    _fail(self._waiting.values(), fault)
                    raise
            else:
                for wanted, waiter in batch.items():
                    waiter.set_result(found.get(wanted))

    async def _read_all(self, batch: Iterable[_Wanted]) -> Mapping[_Wanted, TaskRead]:
        ids_of: defaultdict[str, list[str]] = defaultdict(list)
        for owner, task_id in batch:
            ids_of[owner].append(task_id)
        async with self._database.read() as session:
            now = datetime.now(UTC)
            found = [task for owner, ids in ids_of.items() for task in await tasks.find_tasks(session, owner, ids, now)]
            current = {ref.name: ref for ref in await registry.current_refs(session)}
        return {(task.owner, task.id): TaskRead(task, current.get(task.latest.initializer.name)) for task in found}


def _fail(waiters: Iterable[asyncio.Future[TaskRead | None]], fault: BaseException) -> None:
    for waiter in waiters:
        waiter.set_exception(fault if isinstance(fault, Exception) else asyncio.CancelledError())
        waiter.exception()  # taken: whoever waited may have left
