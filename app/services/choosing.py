"""The choice that `initializer: "auto"` asks for: tried in the engine, made once for each revision, and stored with it.

Which candidate was reached in time depends on the load, so two choices may differ; what was chosen is in the row, and whoever
rebuilds the state takes it from there (law 5).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter

from app.db import adaptations, rows
from app.db.session import Database
from app.domain import Adaptation, InitializerInfo, SupportSet
from app.engine.interface import Engine, HeldOut
from app.errors import AdaptationFailed, AppError, InitializerRejected, InvalidInput
from app.services.candidates import find_admitting, list_candidates
from app.services.initializers import InitializerService
from app.services.lanes import build_job
from app.services.search import Search
from app.services.selection import MIN_POINTS, Candidate, Trial, score
from app.services.selection_report import find_next_best, report_fallback, report_search
from app.services.trial_costs import TrialCosts
from app.settings import Settings

_NOTHING = HeldOut(math.nan, math.nan, 0)


class Chooser:
    """Chooses initializer and steps of adaptations that left both to the service."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        initializers: InitializerService,
        settings: Settings,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._database, self._engine, self._initializers = database, engine, initializers
        self._budget_ms = settings.auto_budget_ms
        self._clock, self._costs = clock, TrialCosts(clock)

    async def settle(self, adaptation: Adaptation, support: SupportSet) -> Adaptation | None:
        """The adaptation with its initializer chosen and stored; as it is when that was done before, None when the task is gone.

        Raises InvalidSupport and InvalidOptions when no current initializer takes it any more, Overloaded, Draining, Unavailable.
        """
        if not is_open(adaptation):
            return adaptation
        search = await self._search(adaptation, support)
        ref, report = search.chosen.ref, report_search(search, self._budget_ms)
        async with self._database.write() as session:
            row = await adaptations.store_choice(session, adaptation.task_id, adaptation.revision, ref, report)
        return rows.adaptation_from(row) if row is not None else None

    async def fall_back(self, adaptation: Adaptation, fault: AppError) -> Adaptation | None:
        """The adaptation with the next best initializer, when the chosen one has failed on the whole support set; or with what another
        worker has settled on meanwhile. None when the client named the initializer, when none is left, and when the task is gone."""
        if adaptation.selection is None:
            return None
        following = find_next_best(adaptation.selection)
        if following is None:
            return None
        failed = adaptation.initializer
        report = report_fallback(adaptation.selection, failed, following, fault)
        async with self._database.write() as session:
            row = await adaptations.replace_choice(session, adaptation.task_id, adaptation.revision, failed, following.ref, report)
        return rows.adaptation_from(row) if row is not None else None

    async def _search(self, adaptation: Adaptation, support: SupportSet) -> Search:
        """Tries candidates until none is left or the time is up: each initializer once, then other numbers of steps."""
        guess = await self._initializers.get(adaptation.initializer.name)
        current = [info for info in await self._initializers.list() if (info.kind, info.input) == (guess.kind, guess.input)]
        infos = {info.ref: info for info in find_admitting(current, support, adaptation.options)}
        search = Search(list_candidates(list(infos.values()), support, adaptation.options), self._clock)
        if not _can_spare(support, guess.kind):
            search.trials = [
                Trial(candidate, _NOTHING, score(candidate.prior, _NOTHING)) for candidate in _first_of_each(search.candidates)
            ]
            return search
        while search.ms < self._budget_ms and (candidate := search.next()) is not None:
            if self._costs.expect_ms(candidate, len(support.labels)) > self._budget_ms - search.ms:
                search.too_slow.add(candidate)
                continue
            try:
                search.trials.append(await self._try(candidate, adaptation, support, infos[candidate.ref]))
            except (AdaptationFailed, InitializerRejected, InvalidInput) as fault:
                search.failed[candidate] = fault.code
        return search

    async def _try(self, candidate: Candidate, adaptation: Adaptation, support: SupportSet, info: InitializerInfo) -> Trial:
        await self._initializers.ensure_installed(candidate.ref)  # loading it is not what a trial costs
        started = self._clock()
        job = replace(build_job(replace(adaptation, initializer=candidate.ref), support, info), steps=candidate.steps)
        held_out = await self._initializers.using(candidate.ref, lambda: self._engine.score_held_out(job))
        ms = (self._clock() - started) * 1000
        self._costs.remember(candidate, len(support.labels), ms)
        if held_out.n and not math.isfinite(held_out.loss):
            raise AdaptationFailed("the inner loop diverged on a part of the support set")
        return Trial(candidate, held_out, score(candidate.prior, held_out), ms)


def is_open(adaptation: Adaptation) -> bool:
    """Whether its initializer is still to be chosen."""
    return adaptation.selection is not None and adaptation.selection["chosen"] is None


def _can_spare(support: SupportSet, kind: str) -> bool:
    if kind == "regression":
        return len(support.labels) >= MIN_POINTS
    return max(Counter(support.labels).values()) > 1


def _first_of_each(candidates: Sequence[Candidate]) -> list[Candidate]:
    return list({candidate.ref: candidate for candidate in reversed(candidates)}.values())[::-1]
