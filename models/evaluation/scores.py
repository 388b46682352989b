"""How good an initializer is: the mean over episodes, with a 95 % interval, one query at a time and beside it all at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from models.episodes import EpisodeBatch, EpisodeShape, EpisodeSource, Split, stack_episodes
from models.errors import InvalidOptions
from models.learner import Learner
from models.support import Params, State

Z_95 = 1.96
MAX_REPEATED_BYTES = 2**26
"""Of a state that is copied for each query of an evaluation: 64 MB."""


@dataclass(frozen=True)
class EvaluationRow:
    """One measured setting. Classification fills the accuracies (percent), regression the errors (MSE).

    `ci95` is half the width of the interval of `accuracy` (of `mse` for regression): 1.96 standard deviations of the
    episodes over the root of their number. `accuracy` and `mse` come from forwards that see one query of each task;
    the transductive figures from forwards that see all queries of a task. n_query is per class (in all, for regression).
    diverged_episodes: in how many the inner loop ended in numbers that are not finite, if any; there is no mean then.
    """

    split: Split
    n_way: int
    k_shot: int
    n_query: int
    episodes: int
    steps: int
    seed: int
    rotated_classes: bool
    seconds: float
    ci95: float | None = None
    diverged_episodes: int | None = None
    accuracy: float | None = None
    accuracy_transductive: float | None = None
    mse: float | None = None
    mse_transductive: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object, without what does not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class EvaluationPlan:
    """What to measure. `steps` None means the learner's own number; `batch` episodes share a forward and change no figure."""

    k_shot: int
    n_way: int = 0
    episodes: int = 1000
    n_query: int = 5
    steps: int | None = None
    split: Split = "test"
    seed: int = 0
    batch: int = 25


Report = Callable[[int], None]
"""Told how many episodes are done."""


def measure(
    learner: Learner, params: Params, source: EpisodeSource, plan: EvaluationPlan, *, rotated: bool, report: Report | None = None
) -> EvaluationRow:
    """The row of one setting. A function of the seed, whatever the batch; costs a forward per query position and batch."""
    if plan.episodes < 2 or plan.batch < 1:
        raise InvalidOptions(f"episodes must be at least 2 and batch at least 1, got {plan.episodes} and {plan.batch}")
    started = time.perf_counter()
    alone, together = _score_episodes(learner, params, source, plan, report)
    is_class = learner.kind == "classification"
    scale = 100.0 if is_class else 1.0
    names = ("accuracy", "accuracy_transductive") if is_class else ("mse", "mse_transductive")
    diverged = int((~alone.isfinite()).sum())
    figures = {names[0]: scale * alone.mean().item(), names[1]: scale * together.mean().item()}
    figures["ci95"] = scale * Z_95 * alone.std().item() / math.sqrt(plan.episodes)
    return EvaluationRow(
        split=plan.split,
        n_way=plan.n_way,
        k_shot=plan.k_shot,
        n_query=plan.n_query,
        episodes=plan.episodes,
        steps=learner.default_steps if plan.steps is None else plan.steps,
        seed=plan.seed,
        rotated_classes=rotated,
        seconds=round(time.perf_counter() - started, 2),
        diverged_episodes=diverged or None,
        **({} if diverged else {name: round(value, 4) for name, value in figures.items()}),
    )


def _score_episodes(
    learner: Learner, params: Params, source: EpisodeSource, plan: EvaluationPlan, report: Report | None
) -> tuple[Tensor, Tensor]:
    """Each episode's score, one query at a time and all at once: two of (episodes,)."""
    device = next(iter(params.values())).device
    generator = torch.Generator().manual_seed(plan.seed)
    shape = EpisodeShape(plan.n_way, plan.k_shot, plan.n_query, tasks=1)  # one by one, so that no figure depends on the batch
    alone, together = [], []
    for first in range(0, plan.episodes, plan.batch):
        tasks = min(plan.batch, plan.episodes - first)
        batch = stack_episodes([source.draw(shape, generator) for _ in range(tasks)]).to(device)
        state = learner.adapt(params, batch.support, plan.steps).state
        with torch.no_grad():
            alone.append(_score(learner, predict_one_by_one(learner, params, state, batch.query_inputs), batch))
            together.append(_score(learner, learner.predict(params, state, batch.query_inputs), batch))
        if report:
            report(first + tasks)
    return torch.cat(alone).double(), torch.cat(together).double()


def predict_one_by_one(learner: Learner, params: Params, state: State, queries: Tensor) -> Tensor:
    """The outputs of forwards in which no lane sees more than a single query, (lanes, n_query, ...).

    A small state is repeated, a lane for each query, and all go in a few forwards; a large one answers query after query.
    """
    lanes, n_query = queries.shape[:2]
    repeats = max(1, min(n_query, MAX_REPEATED_BYTES // max(1, sum(tensor.nbytes for tensor in state.values()))))
    columns = []
    for column in torch.split(queries, repeats, dim=1):
        n = column.shape[1]
        repeated = {name: tensor.repeat_interleave(n, dim=0) for name, tensor in state.items()} if n > 1 else state
        answers = learner.predict(params, repeated, column.reshape(lanes * n, 1, *queries.shape[2:]))
        columns.append(answers.reshape(lanes, n, *answers.shape[2:]))
    return torch.cat(columns, dim=1)


def _score(learner: Learner, outputs: Tensor, batch: EpisodeBatch) -> Tensor:
    """Share of right answers, or mean squared error, of each lane: (lanes,); NaN for a lane with answers that are not numbers."""
    if learner.kind == "regression":
        return (outputs - batch.query_targets).square().flatten(1).mean(1)
    hits = (outputs.argmax(-1) == batch.query_targets).float().mean(1)
    return hits.where(~outputs.isnan().flatten(1).any(1), torch.nan)
