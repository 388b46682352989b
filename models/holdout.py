"""How well a learner answers examples of a support set that it was not shown: leave-one-out, all folds as lanes of one batch.

Choosing among initializers, numbers of steps and starting points needs evidence from the task itself, and there is no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.confidence import MIN_PROBABILITY, Confidence, calibrate
from models.learner import Learner
from models.support import Params, Support, make_support, pad_axis, stack_supports

MAX_FOLDS = 16
MAX_SCORED_EXAMPLES, MIN_SCORED_FOLDS = 256, 3
"""What the folds of one score show together: 16 examples are left out in 16 folds, 25 in 10, 100 in 3. A score must stay cheaper than
a few adaptations, or choosing among learners costs more than it can win."""


@dataclass(frozen=True)
class Fold:
    """Positions in a support set: what is adapted to, and what is asked afterwards."""

    shown: tuple[int, ...]
    held_out: tuple[int, ...]


@dataclass(frozen=True)
class HeldOutScore:
    """The mean over `n` held-out examples of the negative log likelihood and of being right; for regression the squared
    error, and NaN. n is 0, and both are NaN, when nothing can be held out."""

    loss: float
    accuracy: float
    n: int


def split_folds(targets: Sequence[int] | None, n_support: int, max_folds: int = MAX_FOLDS) -> tuple[Fold, ...]:
    """Every example that can be spared is held out once, one at a time while there are no more than `max_folds`.

    targets: class indices, or None for regression. Each class keeps an example in every fold, so the only example of a class
    is never held out. A function of the order of the examples within their classes, and of nothing random.
    """
    members: dict[int, list[int]] = {}
    for position in range(n_support):
        members.setdefault(targets[position] if targets is not None else 0, []).append(position)
    spare = [(rank, position) for group in members.values() if len(group) > 1 for rank, position in enumerate(group)]
    n_folds = min(len(spare), max_folds)
    if targets is not None and spare:
        n_folds = max(n_folds, 2)
    held: list[list[int]] = [[] for _ in range(n_folds)]
    for index, (_, position) in enumerate(sorted(spare)):
        held[index % n_folds].append(position)
    return tuple(_keep_classes(fold, members, n_support) for fold in held)


def _keep_classes(held: Sequence[int], members: dict[int, list[int]], n_support: int) -> Fold:
    """A fold that shows at least one example of each class: of a class that would be held out whole, the first one stays."""
    kept = {group[0] for group in members.values() if set(group) <= set(held)}
    held_out = tuple(sorted(set(held) - kept))
    return Fold(tuple(position for position in range(n_support) if position not in set(held_out)), held_out)


def score_held_out(
    learner: Learner,
    params: Params,
    support: Support,
    folds: Sequence[Fold],
    steps: int | None = None,
    confidence: Confidence | None = None,
) -> HeldOutScore:
    """The score of one learner on a support set of one lane. Costs one adaptation of len(folds) lanes, and one forward.

    Probabilities are calibrated by `confidence`, so that learners of different sharpness can be compared.
    """
    if not folds or not any(fold.held_out for fold in folds):
        return HeldOutScore(float("nan"), float("nan"), 0)
    shown = stack_supports([_take(support, fold.shown) for fold in folds])
    longest = max(len(fold.held_out) for fold in folds)
    queries = torch.cat([pad_axis(support.inputs[:, list(fold.held_out)], 1, longest) for fold in folds])
    targets = torch.cat([pad_axis(support.targets[:, list(fold.held_out)], 1, longest) for fold in folds])
    real = torch.arange(longest, device=queries.device) < torch.tensor([[len(f.held_out)] for f in folds], device=queries.device)
    with torch.no_grad():
        outputs = learner.predict(params, learner.adapt(params, shown, steps).state, queries)
    losses, hits = _judge(outputs, targets, confidence or Confidence())
    return HeldOutScore(float(losses[real].mean()), float(hits[real].mean()), int(real.sum()))


def score_support_set(
    learner: Learner,
    params: Params,
    support: Support,
    steps: int | None = None,
    confidence: Confidence | None = None,
    max_samples: int = MAX_SCORED_EXAMPLES,
    fresh: Sequence[bool] | None = None,
) -> HeldOutScore:
    """The score on a support set of one lane, whatever the order of its examples and the names of its classes.

    max_samples: examples of one batch; the folds are adapted to in as many batches as that takes. Costs as much as adapting to
    256 examples, or to the support set three times where that is more. fresh: which examples may be held out, all unless given; the
    others are left out of the folds that would ask for them.
    """
    order = _order(support)
    support = _take(support, order)
    n_support = support.inputs.shape[1]
    targets = support.targets[0].tolist() if learner.kind == "classification" else None
    folds = split_folds(targets, n_support, max(MIN_SCORED_FOLDS, min(MAX_FOLDS, MAX_SCORED_EXAMPLES // n_support)))
    if fresh is not None:
        may_ask = [fresh[position] for position in order]
        spared = [replace(fold, held_out=tuple(position for position in fold.held_out if may_ask[position])) for fold in folds]
        folds = tuple(fold for fold in spared if fold.held_out)
    size = max(1, max_samples // n_support)
    batches = [folds[first : first + size] for first in range(0, len(folds), size)]
    return _pool([score_held_out(learner, params, support, batch, steps, confidence) for batch in batches])


def _order(support: Support) -> list[int]:
    """By the bytes of the inputs: which examples share a fold must not depend on how a client happens to list them (law 3)."""
    keys = [row.tobytes() for row in support.inputs[0].cpu().numpy()]
    return sorted(range(len(keys)), key=keys.__getitem__)


def _pool(scores: Sequence[HeldOutScore]) -> HeldOutScore:
    n = sum(score.n for score in scores)
    if n == 0:
        return HeldOutScore(float("nan"), float("nan"), 0)
    counted = [score for score in scores if score.n]
    return HeldOutScore(sum(s.loss * s.n for s in counted) / n, sum(s.accuracy * s.n for s in counted) / n, n)


def _judge(outputs: Tensor, targets: Tensor, confidence: Confidence) -> tuple[Tensor, Tensor]:
    """Loss and accuracy of each answer, (lanes, n) both."""
    if targets.is_floating_point():
        losses = (outputs - targets).square().mean(-1)
        return losses, torch.full_like(losses, torch.nan)
    probabilities, _ = calibrate(outputs.double(), confidence)
    likelihood = probabilities.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return -likelihood.clamp(min=MIN_PROBABILITY).log(), (outputs.argmax(-1) == targets).double()


def _take(support: Support, positions: Sequence[int]) -> Support:
    chosen = list(positions)
    return make_support(support.inputs[0, chosen], support.targets[0, chosen], support.max_way)
