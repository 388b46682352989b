"""Which initializer a support set is best adapted with, and by how many steps: the arithmetic of the choice.

What is known beforehand is each card's loss on validation classes; what the task itself says is the loss of examples left out of the
support set. Few of those say little, so the score weighs both as if the card's figure stood for PRIOR_EXAMPLES examples of the task:

    score = (PRIOR_EXAMPLES * prior + n * held_out_loss) / (PRIOR_EXAMPLES + n)

the mean of a normal posterior whose prior is worth that many observations. The smallest score wins.

A card's loss says how hard its own data are as much as how good the learner is: icons are harder than characters. So priors tell apart
initializers of the same data; between data, their best ones start level, and the held-out examples decide (`level_priors`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.domain import InitializerInfo, InitializerRef
from app.engine.interface import HeldOut

AUTO = "auto"
"""The name that stands for the choice; no initializer can have it."""

PRIOR_EXAMPLES = 50.0
"""Chosen on validation classes (`python -m benchmarks.auto_choice --split validation`): 80 tasks of Omniglot and icons, 0.18 +- 0.18
points better than 10. More, up to 300, is as good on these; less is heard sooner where a task is unlike all that was trained on."""

GAP_LEFT = 0.001
"""What is left of the gap between the best initializers of two data sets: it decides where nothing can be held out, and no more."""

MORE_STEPS = 2
"""Besides one step and the initializer's own number, this multiple of it is tried, within its limits."""

MIN_POINTS = 3
"""Regression has no prior: losses are squares of whatever the labels measure. With fewer points than this the first by name is taken."""


@dataclass(frozen=True)
class Candidate:
    """An initializer version and a number of steps. prior: the loss to expect of it on a task like this; None for regression."""

    ref: InitializerRef
    steps: int
    prior: float | None


@dataclass(frozen=True)
class Trial:
    """A candidate and what its held-out examples said; held_out.n is 0 when there were none."""

    candidate: Candidate
    held_out: HeldOut
    score: float
    ms: float = 0.0


def list_steps(info: InitializerInfo) -> tuple[int, ...]:
    """The numbers of steps worth trying: the initializer's own first."""
    own, most = info.default_steps, info.limits.max_steps
    others = (1, MORE_STEPS * own) if own else ()
    return tuple(dict.fromkeys((own, *(steps for steps in others if steps <= most))))


def expect_loss(info: InitializerInfo, n_way: int, k_shot: float) -> float | None:
    """The card's loss on validation classes for a task of so many ways and shots, between and beyond the measured settings.

    Losses are compared as parts of log(n_way), the loss of guessing, and weighted by the inverse square of the distance in
    (log n_way, log k_shot). A card that has none is expected to guess. None for regression.
    """
    if info.kind == "regression":
        return None
    rows = info.card.get("confidence", {}).get("validation", [])
    return math.log(n_way) * (_interpolate(rows, math.log(n_way), math.log(k_shot)) if rows else 1.0)


def _interpolate(rows: Sequence[Mapping[str, Any]], log_way: float, log_shot: float) -> float:
    gaps = [(math.log(row["n_way"]) - log_way) ** 2 + (math.log(row["k_shot"]) - log_shot) ** 2 for row in rows]
    losses = [row["loss"] / math.log(row["n_way"]) for row in rows]
    if min(gaps) < 1e-9:
        return float(losses[gaps.index(min(gaps))])
    weights = [1 / gap for gap in gaps]
    return float(sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights))


def level_priors(priors: Mapping[InitializerRef, float], data: Mapping[InitializerRef, str]) -> dict[InitializerRef, float]:
    """Priors with the best of each data set brought down to the best of all, but for GAP_LEFT of the way."""
    best: dict[str, float] = {}
    for ref, prior in priors.items():
        best[data[ref]] = min(prior, best.get(data[ref], math.inf))
    least = min(best.values(), default=0.0)
    return {ref: prior - (1 - GAP_LEFT) * (best[data[ref]] - least) for ref, prior in priors.items()}


def score(prior: float | None, held_out: HeldOut, prior_examples: float = PRIOR_EXAMPLES) -> float:
    """See above; infinite where the learner diverged. For regression the held-out error alone, from MIN_POINTS points on."""
    if held_out.n and not math.isfinite(held_out.loss):
        return math.inf
    if prior is None:
        return held_out.loss if held_out.n >= MIN_POINTS else 0.0
    return (prior_examples * prior + held_out.n * held_out.loss) / (prior_examples + held_out.n) if held_out.n else prior


def order(candidates: Sequence[Candidate]) -> list[Candidate]:
    """By prior, then by name: the one to take when nothing can be tried comes first."""
    return sorted(candidates, key=lambda candidate: (candidate.prior or 0.0, candidate.ref.name, candidate.ref.version))


def pick_next(candidates: Sequence[Candidate], trials: Sequence[Trial]) -> Candidate | None:
    """What to try after `trials`; None when nothing is left. `candidates` as `order` has them.

    Every initializer with its own number of steps first; then the other numbers, those of the best scored initializer first.
    """
    tried = {trial.candidate for trial in trials}
    known = {candidate.ref for candidate in tried}
    best = {ref: min(trial.score for trial in trials if trial.candidate.ref == ref) for ref in known}
    left = [candidate for candidate in candidates if candidate not in tried]
    new = [candidate for candidate in left if candidate.ref not in known]
    return new[0] if new else min(left, key=lambda candidate: best[candidate.ref], default=None)


def expect_untried(candidates: Sequence[Candidate], trials: Sequence[Trial]) -> list[Trial]:
    """Initializers whose cards promise more than those of all that were tried, as if they were off their cards by as much as those are
    on average: a task that is hard for some is taken to be hard for all. `candidates` as `order` has them; none for regression.

    They are tried first unless they are known to be too slow for the budget; such a one is still the better choice where what could be
    tried is much poorer.
    """
    known = [(trial.candidate.prior, trial.score) for trial in trials if trial.candidate.prior is not None]
    surprise = sum(shown - prior for prior, shown in known) / len(known) if known else 0.0
    least = min((prior for prior, _ in known), default=math.inf)
    own_steps = {candidate.ref: candidate for candidate in reversed(candidates)}
    nothing = HeldOut(math.nan, math.nan, 0)
    hopeful = [(each, each.prior) for each in reversed(own_steps.values()) if each.prior is not None and each.prior < least]
    return [Trial(candidate, nothing, prior + surprise) for candidate, prior in hopeful]


def choose(trials: Sequence[Trial]) -> Trial:
    """The smallest score; of equal ones the first."""
    return min(trials, key=lambda trial: trial.score)
