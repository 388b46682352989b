"""One search of `auto`: what it has tried, what it could not, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

from app.services.selection import Candidate, Trial, choose, expect_untried, pick_next


@dataclass
class Search:
    """What has been tried for one support set, and why the rest was not."""

    candidates: list[Candidate]
    clock: Callable[[], float] = perf_counter
    trials: list[Trial] = field(default_factory=list)
    failed: dict[Candidate, str] = field(default_factory=dict)
    too_slow: set[Candidate] = field(default_factory=set)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def ms(self) -> float:
        return (self.clock() - self.started) * 1000

    def next(self) -> Candidate | None:
        left = [candidate for candidate in self.candidates if candidate not in self.failed and candidate not in self.too_slow]
        return pick_next(left, self.trials)

    @property
    def chosen(self) -> Candidate:
        """The best of those tried and of what the others promise; without either, the first of an initializer that did not fail."""
        failed = {candidate.ref for candidate in self.failed}
        hopeful = [candidate for candidate in self.candidates if candidate.ref not in failed]
        known = [*self.trials, *expect_untried(hopeful, self.trials)]
        return choose(known).candidate if known else next(iter(hopeful), self.candidates[0])
