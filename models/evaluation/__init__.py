"""Evaluation of initializers on episodes of classes they have not seen."""

from __future__ import annotations

from models.artifact import Initializer
from models.episodes import Split, are_turned, open_episodes
from models.errors import InvalidOptions
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
    data: str | None = None,
    report: Report | None = None,
) -> EvaluationRow:
    """The initializer's row for one setting, on the data it was meta-trained for, or on another source's, `data`.

    `rotations` makes turned test classes more classes, as the published MAML and ProtoNet figures do; Omniglot's only.
    Raises DataUnavailable, or InvalidOptions for a setting the data cannot give, for data of another shape, and for `steps` of a
    learner that takes none.
    """
    if steps is not None and not initializer.learner.default_steps:
        raise InvalidOptions(f"steps: {initializer.card.name} adapts without inner steps; leave `steps` out")  # the service's words
    plan = EvaluationPlan(k_shot, n_way, episodes, n_query, steps, split, seed, batch)
    data, learner = data or initializer.card.data, initializer.learner
    source = open_episodes(data, split, rotations=rotations)
    if source.kind != learner.kind or source.input_shape != learner.input_shape:
        found = f"{learner.kind} of {learner.input_shape}"
        raise InvalidOptions(f"{initializer.card.name} does {found}; {data} is {source.kind} of {source.input_shape}")
    return measure(learner, initializer.params, source, plan, rotated=are_turned(data, rotations), report=report)
