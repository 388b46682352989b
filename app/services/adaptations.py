"""The job: claim a row, adapt in the engine, keep the state, finish the row once. And the sweeper that forgets nothing."""

from __future__ import annotations

from app.cache.signals import Signals
from app.cache.states import StateCache
from app.db.session import Database
from app.engine.interface import Engine
from app.services.initializers import InitializerService
from app.services.queue_port import JobQueue
from app.settings import Settings


class AdaptationService:
    """The worker's side of a task."""

    def __init__(
        self,
        database: Database,
        cache: StateCache,
        signals: Signals,
        engine: Engine,
        queue: JobQueue,
        initializers: InitializerService,
        settings: Settings,
    ) -> None: ...

    async def run(self, task_id: str, revision: int) -> None:
        """Adapts one revision; safe to call any number of times, in any number of processes, and to be killed at any point.

        A row that is ready, failed or deleted is left alone. A fault of the adaptation itself ends in `failed`. Overloaded, Draining,
        Unavailable and cancellation give the row back (queued, the attempt not counted) and are raised: the queue may retry, and the
        sweeper does.
        """
        raise NotImplementedError

    async def release(self, task_id: str, revision: int) -> None:
        """Gives a claimed row that will not run here back to the queue: `queued`, the attempt not counted. Nothing if it is not adapting."""
        raise NotImplementedError

    async def sweep(self, *, older_than_s: float | None = None) -> int:
        """Expires tasks past their ttl, fails poison rows, enqueues unfinished rows again; the number enqueued.

        older_than_s: rows touched more recently are left to their job; None is settings.sweep_after_s, 0 takes every unfinished row
        (for the start of a process whose queue was in memory). Raises Unavailable; nothing is lost then, the next sweep goes on.
        """
        raise NotImplementedError
