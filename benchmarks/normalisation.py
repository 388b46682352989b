"""Which normalisation survives one query at a time: short meta-trainings of MAML that differ in nothing else.

    python -m benchmarks.normalisation --steps 600

Judged on validation classes, since the figures decide a design. The last line is one JSON object with `rows`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.short_training import open_short_training
from models.backbones import Conv4
from models.backbones.lanes import EPSILON, scale_and_shift
from models.episodes.episode import EpisodeBatch
from models.evaluation import EvaluationPlan, measure
from models.learner import Adaptation
from models.methods.maml import Maml
from models.methods.objectives import adapted_loss
from models.support import Params, State, Support

IMAGE = (1, 28, 28)
SUPPORT_INPUTS = "support.inputs"


@dataclass(frozen=True)
class SharedStatistics(Conv4):
    """Conv-4 whose channels are normalised over examples: the first `n_sources` of the call, or all of them when 0."""

    n_sources: int = 0

    def find_native(self, inputs: Tensor) -> None:
        """Nothing: the C normalises over channels of one example, whatever `_normalise` says."""

    def _normalise(self, maps: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        sources = maps[:, : self.n_sources or None]
        variance, mean = torch.var_mean(sources, dim=(1, 3, 4), keepdim=True, correction=0)
        return scale_and_shift((maps - mean) * torch.rsqrt(variance + EPSILON), scale, shift)


@dataclass(frozen=True)
class SupportStatisticsMaml(Maml):
    """MAML that sends the support set along with the queries, which are normalised by its statistics (MetaBN, TaskNorm-I)."""

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        adaptation = super().adapt(params, support, steps, differentiable=differentiable)
        return replace(adaptation, state={**adaptation.state, SUPPORT_INPUTS: support.inputs})

    def meta_loss(self, params: Params, batch: EpisodeBatch, progress: float) -> tuple[Tensor, float]:
        """Of the whole adaptation: the weights alone do not say what queries are normalised by."""
        return adapted_loss(self, params, batch)

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        support = state[SUPPORT_INPUTS]
        n_support = support.shape[1]
        backbone = SharedStatistics(self.input_shape, n_sources=n_support)
        outputs = Maml.predict(replace(self, backbone=backbone), params, state, torch.cat([support, queries], dim=1))
        return outputs[:, n_support:]


def _plain(backbone: Conv4) -> Maml:
    return Maml("classification", backbone)


LEARNERS: dict[str, Callable[[], Maml]] = {
    "group": lambda: _plain(Conv4(IMAGE, norm="group")),
    "layer": lambda: _plain(Conv4(IMAGE, norm="layer")),
    "none": lambda: _plain(Conv4(IMAGE, norm="none")),
    "support": lambda: SupportStatisticsMaml("classification", SharedStatistics(IMAGE)),
    "batch": lambda: _plain(SharedStatistics(IMAGE)),
}


def main(
    steps: Annotated[int, typer.Option(help="Meta-steps of each training.")] = 600,
    episodes: Annotated[int, typer.Option(help="Validation episodes.")] = 1000,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
) -> None:
    """Trains and measures every normalisation, 5-way 1-shot."""
    torch.set_num_threads(threads)
    training = open_short_training(steps)
    plan = EvaluationPlan(k_shot=1, n_way=5, episodes=episodes, n_query=5, split="validation", seed=1)
    rows = []
    for norm, make in LEARNERS.items():
        learner = make()
        row = measure(learner, training.train(learner), training.judge, plan, rotated=True)
        rows.append({"norm": norm, **row.to_json()})
        typer.echo(f"{norm:8} {row.accuracy:.2f} +- {row.ci95:.2f}, transductive {row.accuracy_transductive:.2f}")
    typer.echo(json.dumps({"benchmark": "normalisation", "settings": training.describe(threads), "rows": rows}))


if __name__ == "__main__":
    typer.run(main)
