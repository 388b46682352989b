"""MAML++: stepwise learning (Antoniou et al. 2019, arXiv:1810.09502).

Four of the paper's changes are here; the fifth, a cosine for the outer rate, every training of this project has.

- A rate for each tensor and each inner step, meta-learned; beyond the trained steps the last one repeats.
- Multi-step loss: early in the training the queries are asked after every inner step, later only after the last.
- Normalisation by the step: its scales and shifts are one meta-learned set per inner step and the gradient does not move them. The
  paper's running statistics have no counterpart, since our normalisation looks at one example (decision 5). A set is kept as its
  difference to that of the first step, so that a training may start from the weights of a method that has a single one.
- Derivative-order annealing: first-order outer gradients up to a share of the training, second-order ones from then on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.episodes import EpisodeBatch
from models.errors import InvalidOptions
from models.learner import BODY
from models.methods.class_head import CLASS_BIAS, CLASS_WEIGHT
from models.methods.inner_loop import GradientLearner
from models.methods.objectives import query_loss
from models.support import Params, State

RATE, CHANGE = "step.rate.", "step.change."

FLOOR = 0.03
"""Of the weight of a step before the last, as a share of 1/N: that of the authors' code."""


@dataclass(frozen=True)
class MamlPlusPlus(GradientLearner):
    """Gradient-based adaptation of all weights but the normalisation's, each step by its own meta-learned rates.

    inner_lr: where all rates start (0.1 in the authors' Omniglot configurations). They may become negative, as in the paper.
    multi_step_until: the share of the training that has the multi-step loss; the paper has 10 of 100 epochs on Omniglot.
    first_order_until: the share with first-order outer gradients; the paper has 50 of 100 epochs, the authors' configurations none.
    """

    inner_steps: int = 3
    multi_step_until: float = 0.1
    first_order_until: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "classification" and self.inner_steps < 2:
            raise InvalidOptions("inner_steps must be at least 2: the first step of classification moves the head alone, got 1")
        if not (0 <= self.multi_step_until <= 1 and 0 <= self.first_order_until <= 1):
            got = f"{self.multi_step_until} and {self.first_order_until}"
            raise InvalidOptions(f"multi_step_until and first_order_until are shares of the training in [0, 1], got {got}")

    def extra_params(self, params: Params, generator: torch.Generator) -> Params:
        norms = [name for name in params if _is_norm(name)]
        names = [name for name in params if name.startswith((BODY, "head.")) and name not in norms]
        names += [CLASS_WEIGHT, CLASS_BIAS] if self.kind == "classification" else []
        rates = {RATE + name: torch.full((self.inner_steps,), self.inner_lr) for name in names}
        later = self.inner_steps - 1
        return {**rates, **{CHANGE + name: torch.zeros(later, *params[name].shape) for name in norms if later}}

    def moves(self, step: int, name: str) -> bool:
        return super().moves(step, name) and not _is_norm(name)

    def prepare(self, params: Params, step: int, weights: State) -> State:
        step = min(step, self.inner_steps - 1)
        if step == 0:
            return weights  # as the inner loop found them: the first step's set
        return {**weights, **{name: params[name] + params[CHANGE + name][step - 1] for name in weights if _is_norm(name)}}

    def rate(self, params: Params, step: int, name: str) -> Tensor:
        return params[RATE + name][min(step, self.inner_steps - 1)]

    def restart(self, params: Params, state: State) -> Params:
        """Normalisation stays: a state has the last step's set, not the one to begin with."""
        return {name: state[name][0] if name in state and not _is_norm(name) else tensor for name, tensor in params.items()}

    def meta_loss(self, params: Params, batch: EpisodeBatch, progress: float) -> tuple[Tensor, float]:
        first_order = self.first_order or progress < self.first_order_until
        points = self.descend(params, batch.support, self.inner_steps, differentiable=True, first_order=first_order)
        loss, accuracy = torch.zeros((), device=batch.query_inputs.device), 0.0
        for weight, point in zip([0.0, *self.weigh_steps(progress)], points, strict=True):
            if weight:
                outputs = self.predict(params, point.weights, batch.query_inputs)
                after, accuracy = query_loss(self.kind, outputs, batch.query_targets)
                loss = loss + weight * after
        return loss, accuracy

    def weigh_steps(self, progress: float) -> list[float]:
        """How much the queries count after each inner step: evenly at first, more and more the last, in the end the last alone."""
        steps = self.inner_steps
        if progress >= self.multi_step_until:
            return [0.0] * (steps - 1) + [1.0]
        early = max(1 - progress / self.multi_step_until, FLOOR) / steps
        return [early] * (steps - 1) + [1 - early * (steps - 1)]


def _is_norm(name: str) -> bool:
    return name.startswith(BODY) and name.endswith((".scale", ".shift"))
