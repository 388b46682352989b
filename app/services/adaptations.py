"""The job: claim a row, adapt in the engine, keep the state, finish the row once. And the sweeper that forgets nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from time import perf_counter

import structlog
from sqlalchemy import Connection

from app import telemetry
from app.cache.signals import Signals
from app.cache.states import StateCache
from app.db import adaptations, tasks
from app.db.claims import Claimed, claim_all
from app.db.ids import derived_id
from app.db.session import Database
from app.db.tables import AdaptationRow
from app.domain import (
    Adaptation,
    Adapted,
    AdaptJob,
    Answers,
    Array,
    InitializerInfo,
    PredictionSet,
    StateKey,
    SupportSet,
    as_float32,
)
from app.engine.interface import Engine
from app.errors import (
    AdaptationFailed,
    AppError,
    Draining,
    InitializerNotInstalled,
    InitializerRejected,
    Overloaded,
    StateNotResident,
    Unavailable,
)
from app.services.choosing import Chooser, is_open
from app.services.finishing import Finishing
from app.services.initializers import InitializerService
from app.services.lanes import adaptation_phases_ms, build_job, name_answers, phases_ms, state_key
from app.services.queue_port import JobQueue
from app.services.rebuilding import StateSource
from app.services.support_rules import check_options, check_queries, check_support
from app.services.warm_start import Started, WarmStarts
from app.settings import Settings

_log = structlog.get_logger(__name__)
_EXPIRE_BATCH = 500
_SWEEP_BATCH = 10_000


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
    ) -> None:
        self._database, self._cache, self._signals, self._engine = database, cache, signals, engine
        self._queue, self._initializers, self._settings = queue, initializers, settings
        self._finishing = Finishing(database, cache, signals, engine)
        self._running: set[tuple[str, int]] = set()
        self._claim_all = partial(_claim_all, max_attempts=settings.max_attempts)
        self._chooser = Chooser(database, engine, initializers, settings)
        self._warm_starts = WarmStarts(database, engine, initializers, StateSource(database, cache, engine, initializers))

    async def run(self, task_id: str, revision: int) -> None:
        """Adapts one revision; safe to call any number of times, in any number of processes, and to be killed at any point.

        A row that is ready, failed or deleted is left alone. A fault of the adaptation itself ends in `failed`. Overloaded, Draining,
        Unavailable and cancellation give the row back (queued, the attempt not counted) and are raised: the queue may retry, and the
        sweeper does.
        """
        if (task_id, revision) in self._running:  # this very process is at it: a job that came twice, or a sweep that was early
            return
        claimed = await self._database.transact(self._claim_all, (task_id, revision))
        if claimed is None:
            await self._fail_if_poison(task_id, revision)
        else:
            await self.run_claimed(claimed)

    async def run_claimed(self, claimed: Claimed) -> Adaptation | None:
        """Adapts what is claimed already. The adaptation when it became ready here, else None. Raises as `run`."""
        adaptation = claimed.adaptation
        task_id, revision = adaptation.task_id, adaptation.revision
        self._running.add((task_id, revision))
        try:
            return await self._adapt(claimed)
        except (Overloaded, Draining, Unavailable, asyncio.CancelledError):
            telemetry.count_adaptation("released")
            await asyncio.shield(self._give_back(adaptation))
            raise
        except AppError as error:
            await self._finishing.fail(task_id, revision, error.code, error.detail)
        except Exception:
            _log.exception("adaptation_crashed", task_id=task_id, revision=revision)
            await self._finishing.fail(
                task_id, revision, "internal_error", "The adaptation ended with an unexpected error; the log has it."
            )
        finally:
            self._running.discard((task_id, revision))
        return None

    async def release(self, task_id: str, revision: int) -> None:
        """Gives a claimed row that will not run here back: `queued`, the attempt not counted. Nothing if it is not adapting."""
        async with self._database.write() as session:
            await adaptations.release(session, task_id, revision, None)

    async def sweep(self, *, older_than_s: float | None = None) -> int:
        """Expires tasks past their ttl, fails poison rows, enqueues unfinished rows again; the number enqueued.

        older_than_s: rows touched more recently are left to their job; None is settings.sweep_after_s, 0 takes every unfinished row
        (for the start of a process whose queue was in memory). Raises Unavailable; nothing is lost then, the next sweep goes on.
        """
        await self._expire()
        before = _now() - timedelta(seconds=self._settings.sweep_after_s if older_than_s is None else older_than_s)
        patient = min(before, _now() - timedelta(seconds=self._settings.redelivery_timeout_s))
        async with self._database.read() as session:
            poison = await adaptations.exhausted(session, patient, self._settings.max_attempts)
            lost = await adaptations.unfinished(session, before, self._settings.max_attempts, _SWEEP_BATCH)
            telemetry.set_unfinished_rows(await adaptations.count_unfinished(session))
        for task_id, revision in poison:
            await self._fail_exhausted(task_id, revision)
        for task_id, revision in lost:
            await self._queue.enqueue_adaptation(task_id, revision)
        return len(lost)

    async def _adapt(self, claimed: Claimed) -> Adaptation | None:
        began, support, query = perf_counter(), claimed.support, claimed.query
        settled = await self._chooser.settle(claimed.adaptation, support)
        if settled is None:
            return None
        choose_ms = _ms_since(began) if is_open(claimed.adaptation) else None
        adaptation, info, job, adapted = await self._adapt_or_fall_back(settled, support)
        key, timings_ms = state_key(adaptation), adaptation_phases_ms(adaptation, adapted, choose_ms)
        if not adaptation.options.warm_start:
            timings_ms["store"] = await self._keep(key, adapted.state)
            answers = await self._answer_query_set(adaptation, info, query, adapted)
            return await self._finishing.finish(adaptation, Started(adapted), answers, timings_ms)
        began = perf_counter()
        started = await self._warm_starts.improve(adaptation, info, support, job, adapted)
        timings_ms |= {"warm_start": _ms_since(began), "store": 0.0}
        answers = await self._answer_query_set(adaptation, info, query, started.adapted)
        # Two workers with the same job may find other neighbours; only the state of the one that finishes may be seen by others.
        finished = await self._finishing.finish(adaptation, started, answers, timings_ms)
        if finished is not None:
            await self._keep(key, started.adapted.state)
        return finished

    async def _adapt_or_fall_back(
        self, adaptation: Adaptation, support: SupportSet
    ) -> tuple[Adaptation, InitializerInfo, AdaptJob, Adapted]:
        """The usual start, by the initializer named or chosen; under `auto` by the next best, where that one fails on the whole."""
        while True:
            try:
                info = await self._initializers.ensure_installed(adaptation.initializer)
                check_support(support, info)  # a re-adaptation may meet a version with narrower limits
                check_options(adaptation.options, info)
                job = build_job(adaptation, support, info)
                return adaptation, info, job, await self._initializers.using(info.ref, partial(self._engine.adapt, job))
            except (AdaptationFailed, InitializerRejected) as fault:
                following = await self._chooser.fall_back(adaptation, fault)
                if following is None:
                    raise
                _log.warning("fell_back", task_id=adaptation.task_id, failed=str(adaptation.initializer), code=fault.code)
                adaptation = following

    async def _keep(self, key: StateKey, state: bytes) -> float:
        """Milliseconds of the put. Redis away: the state is still on the device, and elsewhere it is adapted again."""
        started = perf_counter()
        try:
            await self._cache.put(key, state)
        except Unavailable as error:
            _log.warning("state_not_cached", key=str(key), detail=error.detail)
        return _ms_since(started)

    async def _answer_query_set(
        self, adaptation: Adaptation, info: InitializerInfo, query: Array | None, adapted: Adapted
    ) -> PredictionSet | None:
        if query is None:
            return None
        check_queries(query, info, max_queries=max(len(query), 1), pointer="#/query")
        key = state_key(adaptation)
        answers = await self._predict_resident(key, adapted.state, as_float32(query))
        return PredictionSet(
            task_id=key.task_id,
            revision=key.revision,
            initializer=key.initializer,
            predictions=name_answers(answers, adaptation, info),
            timings_ms=phases_ms(answers.phases),
            created_at=_now(),
            id=derived_id("pred", adaptation.created_at, key),
            source="query",
        )

    async def _predict_resident(self, key: StateKey, state: bytes, query: Array) -> Answers:
        """The state was made a moment ago; under pressure the device may have dropped it since, or its initializer."""
        for _ in range(3):
            try:
                return await self._engine.predict(key, query)
            except (StateNotResident, InitializerNotInstalled):
                await self._initializers.using(key.initializer, lambda: self._engine.restore(key, state))
        raise Overloaded("The device drops adapted states faster than they can be used.")

    async def _give_back(self, adaptation: Adaptation) -> None:
        """Without a database the row stays `adapting` until the sweeper finds it; that costs an attempt and loses nothing."""
        with contextlib.suppress(Unavailable):
            async with self._database.write() as session:
                await adaptations.release(session, adaptation.task_id, adaptation.revision, adaptation.attempts)

    async def _fail_if_poison(self, task_id: str, revision: int) -> None:
        """Called when a claim was refused. A last attempt that started recently may be alive elsewhere: it is left to the sweeper."""
        async with self._database.read() as session:
            row = await adaptations.find_adaptation(session, task_id, revision)
        patience = timedelta(seconds=self._settings.redelivery_timeout_s)
        if row is not None and _is_exhausted(row, _now() - patience, self._settings.max_attempts):
            await self._fail_exhausted(task_id, revision)

    async def _fail_exhausted(self, task_id: str, revision: int) -> None:
        attempts = self._settings.max_attempts
        await self._finishing.fail(task_id, revision, "attempts_exhausted", f"Started {attempts} times and never ended: given up.")

    async def _expire(self) -> None:
        """Batch by batch, so that no transaction is long, until none is left: a sweep that stopped early could fall behind for ever."""
        expired: Sequence[str] = [""] * _EXPIRE_BATCH
        while len(expired) == _EXPIRE_BATCH:
            async with self._database.write() as session:
                expired = await tasks.delete_expired(session, _now(), _EXPIRE_BATCH)
            for task_id in expired:
                self._engine.forget(task_id)
                with contextlib.suppress(Unavailable):
                    await self._cache.delete_task(task_id)


def _is_exhausted(row: AdaptationRow, before: datetime, max_attempts: int) -> bool:
    touched = row.started_at or row.created_at
    return row.status in adaptations.UNFINISHED and row.attempts >= max_attempts and touched <= before


def _claim_all(connection: Connection, wanted: Sequence[tuple[str, int]], max_attempts: int) -> list[Claimed | None]:
    return claim_all(connection, wanted, _now(), max_attempts)


def _ms_since(started: float) -> float:
    return (perf_counter() - started) * 1000


def _now() -> datetime:
    return datetime.now(UTC)
