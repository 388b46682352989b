"""The choice that `initializer: "auto"` asks for: tried in the engine, made once for each revision, and stored with it.

Which candidate was reached in time depends on the load, so two choices may differ; what was chosen is in the row, and whoever
rebuilds the state takes it from there (law 5).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from app.db import adaptations, rows
from app.db.session import Database
from app.domain import Adaptation, InitializerInfo, InitializerRef, SupportSet
from app.engine.interface import Engine, HeldOut
from app.errors import AdaptationFailed, InitializerRejected, InvalidInput
from app.services.candidates import find_admitting, list_candidates
from app.services.initializers import InitializerService
from app.services.lanes import build_job
from app.services.selection import AUTO, MIN_POINTS, PRIOR_EXAMPLES, Candidate, Trial, choose, pick_next, score
from app.settings import Settings

Json = dict[str, Any]
_NOTHING = HeldOut(math.nan, math.nan, 0)


@dataclass
class _Search:
    """What has been tried for one support set, and what cannot be."""

    candidates: list[Candidate]
    trials: list[Trial] = field(default_factory=list)
    failed: dict[Candidate, str] = field(default_factory=dict)
    started: float = field(default_factory=perf_counter)

    @property
    def ms(self) -> float:
        return (perf_counter() - self.started) * 1000

    def next(self) -> Candidate | None:
        return pick_next([candidate for candidate in self.candidates if candidate not in self.failed], self.trials)

    @property
    def chosen(self) -> Candidate:
        """The best of those tried; when the time was too short for any, the first of an initializer that did not fail."""
        if self.trials:
            return choose(self.trials).candidate
        failed = {candidate.ref for candidate in self.failed}
        return next((candidate for candidate in self.candidates if candidate.ref not in failed), self.candidates[0])


class Chooser:
    """Chooses initializer and steps of adaptations that left both to the service."""

    def __init__(self, database: Database, engine: Engine, initializers: InitializerService, settings: Settings) -> None:
        self._database, self._engine, self._initializers = database, engine, initializers
        self._budget_ms = settings.auto_budget_ms

    async def settle(self, adaptation: Adaptation, support: SupportSet) -> Adaptation | None:
        """The adaptation with its initializer chosen and stored; as it is when that was done before, None when the task is gone.

        Raises InvalidSupport and InvalidOptions when no current initializer takes it any more, Overloaded, Draining, Unavailable.
        """
        if adaptation.selection is None or adaptation.selection["chosen"] is not None:
            return adaptation
        search, infos = await self._search(adaptation, support)
        ref, report = search.chosen.ref, _report(search, infos, self._budget_ms)
        async with self._database.write() as session:
            row = await adaptations.store_choice(session, adaptation.task_id, adaptation.revision, ref, report)
        return rows.adaptation_from(row) if row is not None else None

    async def _search(self, adaptation: Adaptation, support: SupportSet) -> tuple[_Search, dict[InitializerRef, InitializerInfo]]:
        """Tries candidates until none is left or the time is up: each initializer once, then other numbers of steps."""
        guess = await self._initializers.get(adaptation.initializer.name)
        current = [info for info in await self._initializers.list() if (info.kind, info.input) == (guess.kind, guess.input)]
        infos = {info.ref: info for info in find_admitting(current, support, adaptation.options)}
        search = _Search(list_candidates(list(infos.values()), support, adaptation.options))
        if not _can_spare(support, guess.kind):
            search.trials = [
                Trial(candidate, _NOTHING, score(candidate.prior, _NOTHING)) for candidate in _first_of_each(search.candidates)
            ]
            return search, infos
        while search.ms < self._budget_ms and (candidate := search.next()) is not None:
            try:
                search.trials.append(await self._try(candidate, adaptation, support, infos[candidate.ref]))
            except (AdaptationFailed, InitializerRejected, InvalidInput) as fault:
                search.failed[candidate] = fault.code
        return search, infos

    async def _try(self, candidate: Candidate, adaptation: Adaptation, support: SupportSet, info: InitializerInfo) -> Trial:
        started = perf_counter()
        job = replace(build_job(replace(adaptation, initializer=candidate.ref), support, info), steps=candidate.steps)
        held_out = await self._initializers.using(candidate.ref, lambda: self._engine.score_held_out(job))
        if held_out.n and not math.isfinite(held_out.loss):
            raise AdaptationFailed("the inner loop diverged on a part of the support set")
        return Trial(candidate, held_out, score(candidate.prior, held_out), (perf_counter() - started) * 1000)


def ask_for_choice() -> Json:
    """The `selection` of a row whose initializer is still to be chosen."""
    return {"requested": AUTO, "chosen": None}


def _can_spare(support: SupportSet, kind: str) -> bool:
    if kind == "regression":
        return len(support.labels) >= MIN_POINTS
    return max(Counter(support.labels).values()) > 1


def _first_of_each(candidates: Sequence[Candidate]) -> list[Candidate]:
    return list({candidate.ref: candidate for candidate in reversed(candidates)}.values())[::-1]


def _report(search: _Search, infos: dict[InitializerRef, InitializerInfo], budget_ms: float) -> Json:
    """What the task shows as `selection`."""
    chosen, tried = search.chosen, {trial.candidate for trial in search.trials}
    left = [candidate for candidate in search.candidates if candidate not in tried]
    reason = "budget" if any(trial.held_out.n for trial in search.trials) or not search.trials else "nothing_to_hold_out"
    return {
        **ask_for_choice(),
        "chosen": {"initializer": chosen.ref.name, "version": chosen.ref.version, "steps": chosen.steps},
        "tried": [_trial_json(trial) for trial in search.trials],
        "not_tried": [{**_candidate_json(candidate), "reason": search.failed.get(candidate, reason)} for candidate in left],
        "held_out_examples": max((trial.held_out.n for trial in search.trials), default=0),
        "prior_examples": PRIOR_EXAMPLES,
        "budget_ms": budget_ms,
        "ms": round(search.ms, 3),
    }


def _candidate_json(candidate: Candidate) -> Json:
    return {
        "initializer": candidate.ref.name,
        "version": candidate.ref.version,
        "steps": candidate.steps,
        "prior": _number(candidate.prior),
    }


def _trial_json(trial: Trial) -> Json:
    held_out = trial.held_out
    figures = {"held_out_loss": _number(held_out.loss), "held_out_accuracy": _number(held_out.accuracy), "n": held_out.n}
    return {**_candidate_json(trial.candidate), **figures, "score": _number(trial.score), "ms": round(trial.ms, 3)}


def _number(value: float | None) -> float | None:
    """JSON in PostgreSQL has neither NaN nor infinity."""
    return round(value, 6) if value is not None and math.isfinite(value) else None
