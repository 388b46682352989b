"""Predictions: the state is on the device, else in the cache, else adapted again from the stored support set, once."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from time import perf_counter

import structlog

from app import telemetry
from app.cache.states import StateCache
from app.db import predictions, tasks
from app.db.ids import new_id
from app.db.session import Database
from app.domain import (
    Adaptation,
    AdaptJob,
    Answers,
    Array,
    Caller,
    InitializerRef,
    Page,
    PredictionSet,
    StateKey,
    SupportSet,
    Task,
    as_float32,
)
from app.engine.interface import Engine
from app.errors import AppError, Conflict, InitializerNotInstalled, Issue, Overloaded, StateCorrupt, StateNotResident
from app.services.initializers import InitializerService
from app.services.lanes import build_job, name_answers, phases_ms, state_key
from app.services.own_tasks import require_task, task_not_found
from app.services.queue_port import JobQueue
from app.services.readaptation import Readaptation
from app.services.rebuilding import StateSource
from app.services.serving import Serving, ServingMemory, require_serving
from app.services.single_flight import SingleFlight
from app.services.support_rules import check_queries
from app.services.task_reads import read_task
from app.settings import Settings

_log = structlog.get_logger(__name__)


class PredictionService:
    """Answers queries with the serving adaptation of a task."""

    def __init__(
        self,
        database: Database,
        cache: StateCache,
        engine: Engine,
        queue: JobQueue,
        initializers: InitializerService,
        memory: ServingMemory,
        settings: Settings,
    ) -> None:
        self._database, self._engine = database, engine
        self._states = StateSource(database, cache, engine, initializers)
        self._initializers, self._memory, self._settings = initializers, memory, settings
        self._readaptation = Readaptation(database, queue)
        self._flights: SingleFlight[StateKey, None] = SingleFlight()
        self._refreshes: SingleFlight[str, Serving] = SingleFlight()

    async def find_serving(self, caller: Caller, task_id: str) -> Serving:
        """What answers this task's queries, found once for a whole request: how its queries are decoded and who answers them agree.

        Remembered for a moment (`ServingMemory`), unless a version is current here that the task should move to. Raises NotFound
        task_not_found, Conflict task_not_ready (retry_after_s set) or adaptation_failed, Unavailable.
        """
        known = self._memory.find(caller, task_id)
        if known is None or self._initializers.is_outdated(known.latest):
            return await self._read_and_keep(caller, task_id)
        if known.is_due:  # nobody waits for it: where it fails, whoever asks after the remembered moment reads, and is told
            self._refreshes.start(task_id, lambda: self._read_and_keep(caller, task_id))
        return known.serving

    async def _read_and_keep(self, caller: Caller, task_id: str) -> Serving:
        with self._memory.reading(task_id) as reading:
            task, serving = await self._read_serving(caller, task_id)
            self._memory.keep(reading, task, serving)
        return serving

    async def _read_serving(self, caller: Caller, task_id: str) -> tuple[Task, Serving]:
        read = await read_task(self._database, caller, task_id)
        task, current = read.task, read.current
        adaptation = require_serving(task)
        info = await self._initializers.get(adaptation.initializer.name, adaptation.initializer.version)
        is_behind = current is not None and task.latest.initializer.version < current.version
        return task, Serving(adaptation, info, newer=current if is_behind else None)

    async def predict(self, found: Serving, queries: Array, *, record: bool = False, explain: bool = False) -> PredictionSet:
        """Answers queries (n_query, *input shape), float32 or uint8; with `record` they are kept and `id` is set; with `explain` each
        says which support examples drove it (Conflict not_supported when the learner cannot say).

        A task adapted by an older version than the current one answers with it, and is re-adapted in the background (once).
        Redis away does not matter while the state is on the device. Raises InvalidQuery (`#/inputs/...`), Overloaded, Unavailable,
        and NotFound task_not_found when the task was deleted since.
        """
        started = perf_counter()
        serving, info = found.adaptation, found.info
        check_queries(queries, info, max_queries=self._settings.max_queries)
        support = await self._load_explained(serving) if explain else None
        # Explaining leaves the event loop free: the evidence of 1,000 answers among 5,000 examples takes half a second to find.
        job = await asyncio.to_thread(build_job, serving, support, info) if support is not None else None
        answers = await self._answer(serving, as_float32(queries), job)
        if support is None:
            named = name_answers(answers, serving, info)
        else:
            named = await asyncio.to_thread(name_answers, answers, serving, info, support)
        timings_ms = {**phases_ms(answers.phases), "total": round((perf_counter() - started) * 1000, 3)}
        answered = PredictionSet(
            task_id=serving.task_id,
            revision=serving.revision,
            initializer=serving.initializer,
            predictions=named,
            timings_ms=timings_ms,
            created_at=datetime.now(UTC),
        )
        if record:
            answered = await self._record(answered)
        if found.newer is not None:
            await self._readapt(serving.task_id, found.newer)
        return answered

    async def list(self, caller: Caller, task_id: str, *, after: str | None = None, limit: int = 50) -> Page[PredictionSet]:
        """Predictions of the query set that came with the task and recorded ones, oldest first; `after` is the last id seen."""
        async with self._database.read() as session:
            await require_task(session, caller, task_id)
            return await predictions.list_predictions(session, task_id, after=after, limit=limit)

    async def _answer(self, serving: Adaptation, queries: Array, explained: AdaptJob | None) -> Answers:
        key = state_key(serving)
        for attempt in range(3):
            try:
                answers = await self._engine.predict(key, queries, explained)
            except (StateNotResident, InitializerNotInstalled):
                if attempt == 0:
                    telemetry.count_state("device", "miss")
                await self._flights.run(key, lambda: self._make_resident(serving))
                continue
            if attempt == 0:
                telemetry.count_state("device", "hit")
            return answers
        raise Overloaded("The device drops adapted states faster than they can be brought back; try again.")

    async def _make_resident(self, serving: Adaptation) -> None:
        """From the cache, else by adapting again: same support, same version, same options, hence the same state (law 5)."""
        key = state_key(serving)
        state = await self._states.find_cached(key)
        telemetry.count_state("cache", "miss" if state is None else "hit")
        if state is not None:
            with contextlib.suppress(StateCorrupt):
                return await self._initializers.using(key.initializer, lambda: self._engine.restore(key, state))
        await self._states.rebuild(serving)

    async def _load_explained(self, serving: Adaptation) -> SupportSet:
        if "explain" not in await self._initializers.abilities(serving.initializer):
            raise Conflict(
                f"The learner of {serving.initializer} cannot say which support examples drove an answer; leave `explain` out.",
                code="not_supported",
                issues=[Issue("#/query/explain", f"{serving.initializer} explains nothing")],
            )
        return await self._states.load_support(serving)

    async def _record(self, answered: PredictionSet) -> PredictionSet:
        kept = replace(answered, id=new_id("pred", answered.created_at), source="recorded")
        async with self._database.write() as session:
            if await tasks.lock_task(session, kept.task_id) is None:
                raise task_not_found(kept.task_id)
            await (await session.connection()).run_sync(predictions.insert_all, [kept])
        return kept

    async def _readapt(self, task_id: str, newer: InitializerRef) -> None:
        """The answer is made: whatever goes wrong here may not spoil it."""
        try:
            await self._readaptation.start(task_id, newer)
        except AppError as error:
            _log.warning("readaptation_not_started", task_id=task_id, code=error.code, detail=error.detail)
