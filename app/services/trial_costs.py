"""How long trials took: `auto` does not begin one that its time cannot pay for."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from app.engine.lanes import size_class
from app.services.selection import Candidate

REMEMBERED_S = 600.0
"""After ten minutes a candidate is tried again, whatever it took: a first call's warm-up or a busy hour must not exclude it for ever."""


class TrialCosts:
    """The last trial of each candidate on a support set of about the same size, as this process has seen it; nothing is stored."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._seen: dict[tuple[Candidate, int], tuple[float, float]] = {}

    def expect_ms(self, candidate: Candidate, n_support: int) -> float:
        """What the last trial took; 0 for one that is not known, or not any more."""
        ms, at = self._seen.get((_mark(candidate), size_class(n_support)), (0.0, -REMEMBERED_S))
        return ms if self._clock() - at < REMEMBERED_S else 0.0

    def remember(self, candidate: Candidate, n_support: int, ms: float) -> None:
        """What a trial has just taken; what is too old to matter is forgotten."""
        now = self._clock()
        self._seen = {key: seen for key, seen in self._seen.items() if now - seen[1] < REMEMBERED_S}
        self._seen[_mark(candidate), size_class(n_support)] = ms, now


def _mark(candidate: Candidate) -> Candidate:
    """The prior is another one for every number of classes, and costs nothing."""
    return Candidate(candidate.ref, candidate.steps, None)
