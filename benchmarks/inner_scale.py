"""Why MAML's head reads scaled features and its answers have a sharpness of their own: the same meta-training with and without.

    python -m benchmarks.inner_scale --steps 600

Judged on validation classes after 1, 2 and 5 inner steps. The last line is one JSON object with `rows`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.short_training import open_short_training
from models.backbones import Conv4
from models.evaluation import EvaluationPlan, measure
from models.methods.class_head import FEATURE_POWER
from models.methods.maml import Maml
from models.support import Params, State

IMAGE = (1, 28, 28)


@dataclass(frozen=True)
class UnscaledConv4(Conv4):
    """Conv-4 that undoes the scaling which MAML's head is about to apply."""

    def find_native(self, inputs: Tensor) -> None:
        """Nothing: inner loops in C have features of their own, as they are before they are scaled here."""

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        return super().features(params, inputs) * math.sqrt(self.feature_dim / FEATURE_POWER)


@dataclass(frozen=True)
class PlainMaml(Maml):
    """MAML that answers with the very logits its inner loop descends on."""

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        return self.outputs(params, state, queries)


LEARNERS: dict[str, Callable[[], Maml]] = {
    "scaled": lambda: Maml("classification", Conv4(IMAGE)),
    "plain": lambda: PlainMaml("classification", UnscaledConv4(IMAGE)),
}


def main(
    steps: Annotated[int, typer.Option(help="Meta-steps of each training.")] = 600,
    episodes: Annotated[int, typer.Option(help="Validation episodes.")] = 200,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
) -> None:
    """Trains both on the episodes of the recipe omniglot-maml and measures 20-way, 1- and 5-shot."""
    torch.set_num_threads(threads)
    training = open_short_training(steps)
    rows = []
    for name, make in LEARNERS.items():
        learner = make()
        params = training.train(learner)
        for k_shot, inner_steps in ((1, 1), (1, 2), (1, 5), (5, 1), (5, 2), (5, 5)):
            plan = EvaluationPlan(k_shot, 20, episodes, n_query=1, steps=inner_steps, split="validation", seed=1, batch=4)
            row = measure(learner, params, training.judge, plan, rotated=True)
            rows.append({"learner": name, **row.to_json()})
            typer.echo(f"{name:7} {k_shot}-shot, {inner_steps} steps: {row.accuracy:.2f} +- {row.ci95:.2f}")
    typer.echo(json.dumps({"benchmark": "inner_scale", "settings": training.describe(threads), "rows": rows}))


if __name__ == "__main__":
    typer.run(main)
