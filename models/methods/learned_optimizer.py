"""A learned inner optimizer: rate, momentum and weight decay of every tensor are meta-parameters ("meta-gradient descent").

Learned rates are those of Meta-SGD (Li et al. 2017, arXiv:1707.09835), here one a tensor; a learned pull beside them is that of ALFA
(Baik et al. 2020, arXiv:2011.00209), here without the network that generates them per task. With w0 the initial weights, a step is

    velocity = momentum * velocity + gradient
    weights  = w0 + (1 - decay) * (weights - w0) - rate * velocity

The decay draws towards the initial weights, not towards zero: these are what all tasks have taught, whereas zero would take the
scales of the normalisation and the filters with it. For the class head, which starts at zeros, the two are the same. It is decoupled
from the rate (Loshchilov & Hutter 2019, arXiv:1711.05101): the share of the way made so far that a step forgets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.errors import InvalidOptions
from models.learner import BODY
from models.methods.class_head import CLASS_BIAS, CLASS_WEIGHT
from models.methods.inner_loop import GradientLearner
from models.support import Params

LOG_RATE, LOGIT_MOMENTUM, LOGIT_DECAY = "optimizer.log_rate.", "optimizer.logit_momentum.", "optimizer.logit_decay."


@dataclass(frozen=True)
class LearnedOptimizer(GradientLearner):
    """Gradient-based adaptation of all weights by a meta-learned optimizer.

    `inner_lr`, `momentum` and `weight_decay` are where the meta-learned values start, the same for every tensor. Rates stay positive,
    and momentum and decay in (0, 1), since their logarithm and their logits are what is learned. The velocity is forgotten after the
    last step: it is no part of the adapted state.
    """

    inner_steps: int = 3
    momentum: float = 0.1
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "classification" and self.inner_steps < 2:
            raise InvalidOptions("inner_steps must be at least 2: the first step of classification moves the head alone, got 1")
        if not (0 < self.momentum < 1 and 0 < self.weight_decay < 1):
            raise InvalidOptions(f"momentum and weight_decay must be in (0, 1), got {self.momentum} and {self.weight_decay}")

    def extra_params(self, params: Params, generator: torch.Generator) -> Params:
        names = [name for name in params if name.startswith((BODY, "head."))]
        names += [CLASS_WEIGHT, CLASS_BIAS] if self.kind == "classification" else []
        starts = {
            LOG_RATE: math.log(self.inner_lr),
            LOGIT_MOMENTUM: math.log(self.momentum / (1 - self.momentum)),
            LOGIT_DECAY: math.log(self.weight_decay / (1 - self.weight_decay)),
        }
        return {prefix + name: torch.tensor(start) for prefix, start in starts.items() for name in names}

    def update(self, params: Params, step: int, name: str, tensor: Tensor, gradient: Tensor, memory: Any) -> tuple[Tensor, Any]:
        before = torch.zeros_like(gradient) if memory is None else memory
        velocity = params[LOGIT_MOMENTUM + name].sigmoid() * before + gradient
        way = tensor - params[name] if name in params else tensor
        kept = way * (-params[LOGIT_DECAY + name]).sigmoid() - params[LOG_RATE + name].exp() * velocity
        return params[name] + kept if name in params else kept, velocity
