"""Tasks: create, read, revise, wait for, delete. Every method sees the caller's own live tasks only (404 otherwise)."""

from __future__ import annotations

from app.cache.signals import Signals
from app.cache.states import StateCache
from app.db.session import Database
from app.domain import Caller, Page, Status, SupportSet, Task, TaskOptions
from app.engine.interface import Engine
from app.services.initializers import InitializerService
from app.services.queue_port import JobQueue
from app.services.requests import NewTask, Removal
from app.settings import Settings


class TaskService:
    """The tenant's side of a task."""

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

    async def create(self, caller: Caller, new: NewTask) -> tuple[Task, bool]:
        """Validates, stores and enqueues; True when a task was made, False when an equal live one already exists.

        The row is committed before the job is enqueued. When the queue cannot be reached after the commit the task is still
        accepted: the row is the outbox and the sweeper enqueues it. Raises NotFound initializer_not_found, InvalidSupport
        (`#/support/...`), InvalidQuery (`#/query/inputs/...`), InvalidOptions (`#/options/steps`), InvalidBody (`#/ttl_s`), Unavailable.
        """
        raise NotImplementedError

    async def get(self, caller: Caller, task_id: str) -> Task:
        """A live task of the caller. Raises NotFound task_not_found."""
        raise NotImplementedError

    async def list(
        self, caller: Caller, *, after: str | None = None, limit: int = 50, status: Status | None = None, name: str | None = None
    ) -> Page[Task]:
        """The caller's live tasks, newest first; `after` is the id of the last row of the page before."""
        raise NotImplementedError

    async def delete(self, caller: Caller, task_id: str) -> None:
        """Removes the task with all it owns, also while it adapts: that adaptation then ends without a trace. Raises NotFound."""
        raise NotImplementedError

    async def revise(
        self,
        caller: Caller,
        task_id: str,
        *,
        add: SupportSet | None = None,
        remove: Removal | None = None,
        options: TaskOptions | None = None,
    ) -> Task:
        """A new revision on top of the latest one, on the initializer's current version; the serving one answers until it is ready.

        `options` None keeps the latest ones. Raises InvalidSupport with pointers `#/add/...`, `#/remove/classes/0`,
        `#/remove/indices/0`, NotFound.
        """
        raise NotImplementedError

    async def wait(self, caller: Caller, task_id: str, revision: int, timeout_s: float) -> Task:
        """The task once `revision` is ready, failed or superseded, or as it stands after timeout_s. Raises NotFound."""
        raise NotImplementedError
