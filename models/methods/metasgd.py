"""Meta-SGD: the initial weights and the learning rate of every single weight are meta-learned (Li et al. 2017, arXiv:1707.09835).

The rates are meta-parameters `rate.<name>`, as many as the weights they belong to, and may become negative: the paper wants the
direction of the step learned, not its length only. The class head has no meta-learned rows, so its rates are one a feature and one for
the bias, shared by the classes (law 3). All rates start at `inner_lr`; the paper draws them from [0.005, 0.1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.methods.class_head import CLASS_BIAS, CLASS_WEIGHT
from models.methods.inner_loop import LOG_SHARPNESS, GradientLearner
from models.support import Params

RATE = "rate."


@dataclass(frozen=True)
class MetaSgd(GradientLearner):
    """Gradient-based adaptation of all weights, each by its own meta-learned rate. `inner_lr` is where the rates start."""

    def extra_params(self, params: Params, generator: torch.Generator) -> Params:
        rates = {RATE + name: torch.full_like(tensor, self.inner_lr) for name, tensor in params.items() if name != LOG_SHARPNESS}
        if self.kind == "classification":
            rates[RATE + CLASS_WEIGHT] = torch.full((self.backbone.feature_dim,), self.inner_lr)
            rates[RATE + CLASS_BIAS] = torch.tensor(self.inner_lr)
        return rates

    def rate(self, params: Params, step: int, name: str) -> Tensor:
        return params[RATE + name]
