"""What the services ask of the queue: ids in, nothing out. `app/queue.py` implements it over docket."""

from __future__ import annotations

from typing import Protocol


class JobQueue(Protocol):
    """A queue of jobs that run at least once; the row in SQL is the truth and the queue only a reminder of it."""

    async def enqueue_adaptation(self, task_id: str, revision: int) -> None:
        """Asks for one adaptation. Idempotent: while the queue knows the same (task, revision), a second call is a no-op.

        A finished job must be forgotten, so that the sweeper can enqueue it again. Raises Unavailable when Redis is away.
        """
        ...

    async def ping(self) -> None:
        """Raises Unavailable when the queue cannot be reached."""
        ...
