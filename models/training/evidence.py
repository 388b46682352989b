"""What a training writes on the card: how the initializer was made, and how good it is on test classes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from models.artifact import Card, InputSpec
from models.episodes import are_turned, open_episodes
from models.evaluation import EvaluationPlan, measure
from models.learner import Learner
from models.support import Params
from models.training.provenance import describe_hardware
from models.training.recipe import Recipe


@dataclass(frozen=True)
class Making:
    """How the weights came about. meta_steps: the step they are from; seconds: training time, validation included."""

    meta_steps: int
    command: str
    seconds: float
    device: str
    git_revision: str | None


def measure_rows(recipe: Recipe, learner: Learner, params: Params) -> list[dict[str, Any]]:
    """The accuracy table: each row the recipe asks for, on test classes and (Omniglot) their rotations, one query at a time."""
    if not recipe.evaluation:
        return []
    source = open_episodes(recipe.data.source, "test", rotations=True)
    rotated = are_turned(recipe.data.source)
    plans = [EvaluationPlan(row.k_shot, row.n_way, row.episodes, row.n_query, row.steps or None) for row in recipe.evaluation]
    return [measure(learner, params, source, plan, rotated=rotated).to_json() for plan in plans]


def measure_confidence(recipe: Recipe, learner: Learner, params: Params) -> dict[str, Any]:
    """The card's confidence; empty for a recipe that asks for no evaluation."""
    if not recipe.evaluation:
        return {}
    from models.evaluation.calibration import certify_confidence  # scikit-learn takes a second to import, and is only wanted here

    return certify_confidence(learner, params, recipe.data.source, recipe.limits.max_way)


def write_card(recipe: Recipe, learner: Learner, made: Making, accuracy: list[dict[str, Any]], confidence: dict[str, Any]) -> Card:
    """The card of freshly trained weights, but for what `save_initializer` adds."""
    return Card(
        name=recipe.name,
        learner=dict(recipe.learner),
        input=_describe_input(learner.input_shape),
        limits=recipe.limits,
        default_steps=learner.default_steps,
        recipe=recipe.to_json(),
        data=recipe.data.source,
        seed=recipe.seed,
        meta_steps=made.meta_steps,
        git_revision=made.git_revision,
        trained_with=made.command,
        train_seconds=round(made.seconds, 3),
        hardware=describe_hardware(made.device),
        torch_version=str(torch.__version__),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        accuracy=accuracy,
        confidence=confidence,
    )


def _describe_input(shape: tuple[int, ...]) -> InputSpec:
    if len(shape) == 3:
        return InputSpec("image", shape, "bright" if shape[0] == 1 else None, (0.0, 1.0))
    return InputSpec("vector", shape, None, None)
