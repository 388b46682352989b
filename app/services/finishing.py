"""The one end of an adaptation: its row in one transaction, and after that whoever waits for it is told."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection

from app import telemetry
from app.cache.keys import adaptation_topic
from app.cache.signals import Signals
from app.cache.states import StateCache
from app.db import adaptations, predictions, rows
from app.db.session import Database
from app.domain import Adaptation, PredictionSet, Status
from app.engine.interface import Engine
from app.errors import Unavailable
from app.services.warm_start import Started


class _End(NamedTuple):
    """What one finish writes."""

    finish: adaptations.Finish
    answers: PredictionSet | None


class Finishing:
    """Ends adaptations in `ready` or `failed`; of several that end the same one, one wins."""

    def __init__(self, database: Database, cache: StateCache, signals: Signals, engine: Engine) -> None:
        self._database, self._cache, self._signals, self._engine = database, cache, signals, engine

    async def finish(
        self, adaptation: Adaptation, started: Started, answers: PredictionSet | None, timings_ms: dict[str, float]
    ) -> Adaptation | None:
        """One transaction: the row, the task's serving revision and the query set's predictions. The adaptation as it now is, None when
        another has ended it or its task is gone."""
        timings_ms = {phase: round(ms, 3) for phase, ms in timings_ms.items()}
        finished = _as_ready(adaptation, started, timings_ms)
        values = rows.finish_to_values(finished, started.adapted.embedding, started.start)
        won, before = await self._database.transact(_write_all, _End(adaptations.Finish(finished, values), answers))
        if not won:
            await self._clean_up_after_lost_finish(adaptation)
            return None
        telemetry.count_adaptation("ready", timings_ms)
        if before is not None and before.revision < adaptation.revision:
            with contextlib.suppress(Unavailable):  # superseded: its TTL would end it anyway
                await self._cache.delete(before)
        await self._signals.publish(adaptation_topic(adaptation.task_id, adaptation.revision))
        return finished

    async def fail(self, task_id: str, revision: int, code: str, detail: str) -> None:
        """Unfinished -> `failed`, with a reason for the client."""
        async with self._database.write() as session:
            won = await adaptations.finish_failed(session, task_id, revision, _now(), code, detail)
        if won:
            telemetry.count_adaptation("failed")
            await self._signals.publish(adaptation_topic(task_id, revision))

    async def _clean_up_after_lost_finish(self, adaptation: Adaptation) -> None:
        telemetry.count_adaptation("superseded")
        async with self._database.read() as session:
            row = await adaptations.find_adaptation(session, adaptation.task_id, adaptation.revision)
        if row is None:  # deleted while it adapted: the state put a moment ago must not outlive the task
            self._engine.forget(adaptation.task_id)
            with contextlib.suppress(Unavailable):
                await self._cache.delete_task(adaptation.task_id)
        elif adaptation.options.warm_start:  # the winner may have started elsewhere: the state here is not the one that serves
            self._engine.forget(adaptation.task_id)


def _as_ready(adaptation: Adaptation, started: Started, timings_ms: dict[str, float]) -> Adaptation:
    return replace(
        adaptation,
        status=Status.READY,
        finished_at=_now(),
        loss=started.adapted.loss,
        accuracy=started.adapted.accuracy,
        timings_ms=timings_ms,
        warm_start=started.warm_start,
    )


def _write_all(connection: Connection, ends: Sequence[_End]) -> list[adaptations.Finished]:
    """What became of each; the answers of those that won are kept."""
    outcomes = adaptations.finish_all(connection, [end.finish for end in ends])
    kept = [end.answers for end, outcome in zip(ends, outcomes, strict=True) if outcome.won]
    predictions.insert_all(connection, [answers for answers in kept if answers is not None])
    return outcomes


def _now() -> datetime:
    return datetime.now(UTC)
