"""MAML: learn initial weights from which a few gradient steps fit a new task (Finn et al. 2017, arXiv:1703.03400).

Body and head move by plain gradient descent. The class head starts at zeros, see `models.methods.inner_loop`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.episodes.episode import EpisodeBatch
from models.errors import InvalidOptions
from models.methods.inner_loop import GradientLearner
from models.methods.objectives import query_loss
from models.support import Params


@dataclass(frozen=True)
class Maml(GradientLearner):
    """Gradient-based adaptation of all weights: the family as it is, with no hook overridden.

    judged_steps: the numbers of inner steps after which the queries judge, all alike, in meta-training; none means after the
    last only. A tenant who takes another number of steps than `inner_steps` is then served by weights that were made for it.
    """

    judged_steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(type(step) is not int or step < 1 for step in self.judged_steps):
            raise InvalidOptions(f"judged_steps must be whole numbers of at least 1, got {list(self.judged_steps)}")

    def meta_loss(self, params: Params, batch: EpisodeBatch, progress: float) -> tuple[Tensor, float]:
        judged = self.judged_steps or (self.inner_steps,)
        losses, accuracy = [], 0.0
        points = self.descend(params, batch.support, max(judged), differentiable=True, first_order=self.first_order)
        for step, point in enumerate(points):
            if step in judged:
                outputs = self.predict(params, self.to_state(params, point.weights, batch.support.lanes), batch.query_inputs)
                loss, accuracy = query_loss(self.kind, outputs, batch.query_targets)
                losses.append(loss)
        return torch.stack(losses).mean(), accuracy
