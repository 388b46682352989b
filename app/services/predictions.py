"""Predictions: the state is on the device, else in the cache, else adapted again from the stored support set, once."""

from __future__ import annotations

from app.cache.states import StateCache
from app.db.session import Database
from app.domain import Array, Caller, Page, PredictionSet
from app.engine.interface import Engine
from app.services.initializers import InitializerService
from app.services.queue_port import JobQueue
from app.settings import Settings


class PredictionService:
    """Answers queries with the serving adaptation of a task."""

    def __init__(
        self, database: Database, cache: StateCache, engine: Engine, queue: JobQueue, initializers: InitializerService, settings: Settings
    ) -> None: ...

    async def predict(self, caller: Caller, task_id: str, queries: Array, *, record: bool = False) -> PredictionSet:
        """Answers queries (n_query, *input shape), float32 or uint8; with `record` they are kept and `id` is set.

        A task adapted by an older version than the current one answers with it, and is re-adapted in the background (once).
        Redis away does not matter while the state is on the device. Raises NotFound task_not_found, Conflict task_not_ready
        (retry_after_s set) or adaptation_failed, InvalidQuery (`#/inputs/...`), Overloaded, Unavailable.
        """
        raise NotImplementedError

    async def list(self, caller: Caller, task_id: str, *, after: str | None = None, limit: int = 50) -> Page[PredictionSet]:
        """Predictions of the query set that came with the task and recorded ones, oldest first; `after` is the last id seen."""
        raise NotImplementedError
