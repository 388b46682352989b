"""Starting from the weights of the caller's most similar task, where that answers held-out examples better than the usual start."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from app.db import tasks
from app.db.session import Database
from app.domain import Adaptation, Adapted, AdaptJob, Array, InitializerInfo, StartTrial, SupportSet, WarmStart, WarmStartCode, as_float32
from app.engine.interface import Engine
from app.errors import AdaptationFailed, NotFound, StateCorrupt
from app.services.initializers import InitializerService
from app.services.rebuilding import StateSource
from app.services.requests import Neighbour
from app.services.similarity import SimilarityService


@dataclass(frozen=True)
class Started:
    """An adaptation, what became of its warm start, and the weights it began with when they were not the usual ones."""

    adapted: Adapted
    warm_start: WarmStart | None = None
    start: bytes | None = None


class WarmStarts:
    """Compares starts for a task that has asked for it. `cold`, its adaptation from the usual start, is there already."""

    def __init__(self, database: Database, engine: Engine, initializers: InitializerService, states: StateSource) -> None:
        self._database, self._engine, self._initializers, self._states = database, engine, initializers, states
        self._similarity = SimilarityService(database, initializers)

    async def improve(self, adaptation: Adaptation, info: InitializerInfo, support: SupportSet, job: AdaptJob, cold: Adapted) -> Started:
        """The better of both starts, on the whole support set. Costs a comparison, and a second adaptation when warm wins."""
        if "restart" not in await self._initializers.abilities(info.ref):  # a re-adaptation may meet a version of another method
            return _kept_cold(cold, "not_supported", f"The learner of {info.ref} cannot start from the weights of another task.")
        if not _can_spare(support, info):
            return _kept_cold(cold, "nothing_to_hold_out", "Nothing can be held out to compare by: there are no two examples of any class.")
        neighbour = await self._find_neighbour(adaptation, info, cold)
        if neighbour is None:
            return _kept_cold(cold, "no_neighbour", f"There is no other ready task of yours on {info.ref} to start from.")
        try:
            trial = await self._try(neighbour, support, job)
        except (NotFound, StateCorrupt, AdaptationFailed) as gone:
            return _kept_cold(cold, "unusable", f"The weights of the most similar task could not be used: {gone.detail}", neighbour)
        if trial.n_held_out == 0:
            reason = "Nothing can be held out to compare by: the most similar task has been shown it all."
            return _kept_cold(cold, "nothing_to_hold_out", reason, neighbour)
        return await self._choose(neighbour, job, trial, cold)

    async def _find_neighbour(self, adaptation: Adaptation, info: InitializerInfo, cold: Adapted) -> Neighbour | None:
        async with self._database.read() as session:
            owner = await tasks.find_owner(session, adaptation.task_id)
        if owner is None or cold.embedding is None:
            return None
        return await self._similarity.nearest(owner, adaptation, info, cold.embedding)

    async def _try(self, neighbour: Neighbour, support: SupportSet, job: AdaptJob) -> StartTrial:
        serving = neighbour.task.serving or neighbour.task.latest
        state = await self._states.fetch(serving)
        fresh = unseen(support.inputs, (await self._states.load_support(serving)).inputs)
        return await self._initializers.using(job.key.initializer, lambda: self._engine.try_start(job, state, fresh))

    async def _choose(self, neighbour: Neighbour, job: AdaptJob, trial: StartTrial, cold: Adapted) -> Started:
        losses = f"held-out loss {trial.warm:.4g} against {trial.cold:.4g}, on {trial.n_held_out} examples"
        if not trial.warm < trial.cold:
            return _kept_cold(cold, "not_better", f"The usual start is as good or better: {losses}.", neighbour, trial)
        warm_job = replace(job, start=trial.start)
        try:
            warm = await self._initializers.using(job.key.initializer, lambda: self._engine.adapt(warm_job))
        except AdaptationFailed as diverged:
            reason = f"It was better on held-out examples and failed on all: {diverged.detail}"
            return _kept_cold(cold, "unusable", reason, neighbour, trial)
        reason = f"It is better than the usual start: {losses}."
        report = WarmStart(True, reason, neighbour.task.id, _number(trial.cold), _number(trial.warm), "kept")
        return Started(warm, report, trial.start)


def unseen(inputs: Array, seen: Array) -> Array:
    """Which of `inputs` are not among `seen`, (n,) bool; pixels and numbers that the engine reads alike are equal."""
    known = {row.tobytes() for row in as_float32(seen)}
    return np.array([row.tobytes() not in known for row in as_float32(inputs)], dtype=bool)


def _can_spare(support: SupportSet, info: InitializerInfo) -> bool:
    if info.kind == "regression":
        return len(support.labels) > 1
    return max(Counter(support.labels).values()) > 1


def _kept_cold(
    cold: Adapted, code: WarmStartCode, reason: str, neighbour: Neighbour | None = None, trial: StartTrial | None = None
) -> Started:
    from_task = neighbour.task.id if neighbour is not None else None
    losses = (_number(trial.cold), _number(trial.warm)) if trial is not None else (None, None)
    return Started(cold, WarmStart(False, reason, from_task, *losses, code))


def _number(loss: float) -> float | None:
    """JSON in PostgreSQL has no infinity."""
    return loss if math.isfinite(loss) else None
