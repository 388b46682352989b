"""Adapted states of finished adaptations: from the cache, else made again from what is stored, to the same numbers (law 5)."""

from __future__ import annotations

import contextlib

import structlog

from app.cache.states import StateCache
from app.db import adaptations, rows, tasks
from app.db.adaptations import Origin
from app.db.session import Database
from app.domain import Adaptation, Adapted, StateKey, SupportSet
from app.engine.interface import Engine
from app.errors import Overloaded, Unavailable
from app.services.initializers import InitializerService
from app.services.lanes import build_job, state_key
from app.services.own_tasks import task_not_found

_log = structlog.get_logger(__name__)


class StateSource:
    """Where the state of an adaptation is to be had. Support set, version, options and start are all in SQL."""

    def __init__(self, database: Database, cache: StateCache, engine: Engine, initializers: InitializerService) -> None:
        self._database, self._cache, self._engine, self._initializers = database, cache, engine, initializers

    async def fetch(self, adaptation: Adaptation) -> bytes:
        """The state's bytes. Raises as `rebuild`."""
        cached = await self.find_cached(state_key(adaptation))
        return cached if cached is not None else (await self.rebuild(adaptation)).state

    async def find_cached(self, key: StateKey) -> bytes | None:
        """The cached bytes; None when there are none, or the cache is away."""
        try:
            return await self._cache.get(key)
        except Unavailable as error:
            _log.warning("state_cache_unavailable", key=str(key), detail=error.detail)
            return None

    async def rebuild(self, adaptation: Adaptation) -> Adapted:
        """Adapts again, which makes the state resident too, and caches it. Raises NotFound task_not_found, Overloaded, Unavailable."""
        key = state_key(adaptation)
        support, origin = await self._load(adaptation)
        if origin.is_incomplete:
            raise Overloaded(f"Two newer revisions of task {adaptation.task_id} have begun to serve since this was asked; try again.")
        info = await self._initializers.ensure_installed(key.initializer)
        job = build_job(adaptation, support, info, origin.start)
        adapted = await self._initializers.using(key.initializer, lambda: self._engine.adapt(job))
        with contextlib.suppress(Unavailable):
            await self._cache.put(key, adapted.state)
        return adapted

    async def load_support(self, adaptation: Adaptation) -> SupportSet:
        """What the adaptation was adapted to. Raises NotFound task_not_found when the task was deleted since."""
        return (await self._load(adaptation))[0]

    async def _load(self, adaptation: Adaptation) -> tuple[SupportSet, Origin]:
        task_id = adaptation.task_id
        async with self._database.read() as session:
            origin = await adaptations.find_origin(session, task_id, adaptation.revision)
            stored = await tasks.find_examples(session, task_id, origin.support_id) if origin is not None else None
        if origin is None or stored is None:
            raise task_not_found(task_id)
        return rows.support_from(stored), origin
