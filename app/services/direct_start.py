"""Adaptations that begin in the process that accepted them, the moment they are committed: no queue in between, nothing is read back.

The row is the truth as ever: it is inserted as claimed, with its attempt counted, so a process that is killed leaves what a killed worker
leaves, and the next start or the sweeper finds it. What cannot be done here goes the way of all others, over the queue.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from app.db.claims import Claimed
from app.domain import Array, Status, SupportSet, Task
from app.errors import AppError
from app.services.adaptations import AdaptationService
from app.services.readaptation import Readaptation

_log = structlog.get_logger(__name__)


class DirectStart:
    """The adaptations that run beside the door that accepted them; closed until the root says that this process has a worker."""

    def __init__(self, adaptations: AdaptationService, outbox: Readaptation, limit: int) -> None:
        self._adaptations, self._outbox, self._limit = adaptations, outbox, limit
        self._running: dict[tuple[str, int], asyncio.Task[Task | None]] = {}
        self._is_open = False

    @property
    def has_room(self) -> bool:
        """Whether a task may be inserted as claimed by this process."""
        return self._is_open and len(self._running) < self._limit

    def open(self) -> None:
        """From now on this process adapts what it accepts."""
        self._is_open = True

    def start(self, task: Task, support: SupportSet, query: Array | None) -> None:
        """Adapts a task that was just committed as claimed by this process."""
        key = (task.id, task.latest.revision)
        running = self._running[key] = asyncio.create_task(self._adapt(task, Claimed(task.latest, support, query)), name="direct start")
        running.add_done_callback(lambda _: self._running.pop(key, None))

    async def wait(self, task_id: str, revision: int, timeout_s: float) -> Task | None:
        """The task as it became ready here; None when it must be read: it is not adapted here, not in time, or ended otherwise."""
        running = self._running.get((task_id, revision))
        if running is None:
            return None
        done, _ = await asyncio.wait([running], timeout=timeout_s)
        return running.result() if done and not running.cancelled() else None

    async def drain(self, timeout_s: float) -> None:
        """Begins nothing more, lets what runs finish as long as it may, and gives the rest back."""
        self._is_open = False
        if self._running:
            _, late = await asyncio.wait(list(self._running.values()), timeout=timeout_s)
            for running in late:
                running.cancel()
            if late:
                await asyncio.wait(late)

    async def _adapt(self, task: Task, claimed: Claimed) -> Task | None:
        try:
            finished = await self._adaptations.run_claimed(claimed)
        except AppError:  # the row is given back: over the queue it is tried again, later and later
            await self._outbox.enqueue(task.id, task.latest.revision)
            return None
        except Exception:  # not even its failure could be written: the sweeper comes back to it
            _log.exception("direct_start_lost", task_id=task.id)
            return None
        return replace(task, latest=finished, serving=finished) if finished is not None and finished.status is Status.READY else None
