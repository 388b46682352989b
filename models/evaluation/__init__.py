"""Evaluation of initializers on episodes of classes they have not seen."""

from __future__ import annotations

from models.artifact import Initializer
from models.episodes import Split, open_episodes
from models.evaluation.scores import EvaluationPlan, EvaluationRow, Report, measure

__all__ = ["EvaluationPlan", "EvaluationRow", "evaluate", "measure"]


def evaluate(
    initializer: Initializer,
    *,
    k_shot: int,
    n_way: int = 0,
    episodes: int = 1000,
    n_query: int = 5,
    steps: int | None = None,
    split: Split = "test",
    seed: int = 0,
    batch: int = 25,
    rotations: bool = True,
    report: Report | None = None,
) -> EvaluationRow:
    """The initializer's row for one setting, on the data it was meta-trained for.

    `rotations` makes turned test classes more classes, as the published MAML and ProtoNet figures do.
    Raises DataUnavailable, or InvalidOptions for a setting the data cannot give.
    """
    plan = EvaluationPlan(k_shot, n_way, episodes, n_query, steps, split, seed, batch)
    source = open_episodes(initializer.card.data, split, rotations=rotations)
    rotated = rotations and initializer.learner.kind == "classification"
    return measure(initializer.learner, initializer.params, source, plan, rotated=rotated, report=report)
