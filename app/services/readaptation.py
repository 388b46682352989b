"""Moving tasks to a newer initializer version: the same support set, a new revision; the old one answers until it is ready."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

from app.db import adaptations
from app.db.session import Database
from app.domain import InitializerRef
from app.errors import Unavailable
from app.services.queue_port import JobQueue


class Readaptation:
    """Queues re-adaptations, each once: the task's row is locked while its latest version is compared."""

    def __init__(self, database: Database, queue: JobQueue) -> None:
        self._database, self._queue = database, queue

    async def start(self, task_id: str, ref: InitializerRef) -> int | None:
        """The new revision, or None when the task is (being) adapted with this version or is gone. Raises Unavailable."""
        async with self._database.write() as session:
            revision = await adaptations.repeat_on(session, task_id, ref, datetime.now(UTC))
        if revision is not None:
            await self.enqueue(task_id, revision)
        return revision

    async def start_all(self, ref: InitializerRef) -> int:
        """Every live task of an older version of this initializer; how many."""
        started, after = 0, ""
        while True:
            async with self._database.read() as session:
                behind = await adaptations.tasks_behind(session, ref, datetime.now(UTC), after, 100)
            if not behind:
                return started
            for task_id in behind:
                started += await self.start(task_id, ref) is not None
            after = behind[-1]

    async def enqueue(self, task_id: str, revision: int) -> None:
        """Tells the queue about a committed row. Redis away: the row is the outbox, the sweeper tells the queue later."""
        with contextlib.suppress(Unavailable):
            await self._queue.enqueue_adaptation(task_id, revision)
