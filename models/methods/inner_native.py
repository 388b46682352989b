"""Inner loops that run whole in C, where the method is plain descent, the network is in C, and nobody differentiates through the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from torch import Tensor

from models.backbones import Backbone, descends
from models.backbones.conv4_descent import Descended, StepRates
from models.learner import BODY
from models.methods.class_head import CLASS_BIAS, CLASS_WEIGHT, find_scale
from models.support import Params, Support


class PlainDescent(Protocol):
    """What of a gradient-based learner is needed here; see `models.methods.inner_loop.GradientLearner`."""

    @property
    def backbone(self) -> Backbone: ...

    @property
    def body_objective(self) -> Literal["sum", "mean"]: ...

    @property
    def starts_at_prototypes(self) -> bool: ...

    def adapts(self, name: str) -> bool: ...

    def moves(self, step: int, name: str) -> bool: ...

    def rate(self, params: Params, step: int, name: str) -> float | Tensor: ...

    def start_head(self, params: Params, support: Support) -> tuple[Tensor, Tensor]: ...


def descend_natively(learner: PlainDescent, params: Params, support: Support, steps: Sequence[int]) -> Descended | None:
    """Where each lane ends after its own number of steps, the body's tensors by their own names; None where that is not for C to find."""
    descent = learner.backbone.find_descent(support.inputs) if descends(learner.backbone) else None
    if descent is None:
        return None
    names = [*(BODY + name for name in descent.names), CLASS_WEIGHT, CLASS_BIAS]
    adapted = [learner.adapts(name) for name in names]
    rates = _plan_rates(learner, params, names, adapted, max(steps, default=0))
    if rates is None:
        return None
    return descent.run(
        [params[name] for name in names[:-2]],
        None if learner.starts_at_prototypes else learner.start_head(params, support),
        support,
        steps,
        rates,
        moving=[name for name, adapts in zip(descent.names, adapted, strict=False) if adapts],
        feature_scale=find_scale(learner.backbone.feature_dim),
        divides_body=learner.body_objective == "mean",
    )


def _plan_rates(learner: PlainDescent, params: Params, names: Sequence[str], adapted: Sequence[bool], steps: int) -> StepRates | None:
    """None where a tensor has one factor for each number in one step and others in another."""
    by_step, factors = np.zeros((steps, len(names))), [None] * len(names)  # type: tuple[np.ndarray, list[Tensor | None]]
    for at, name in enumerate(names):
        for step in range(steps) if adapted[at] else ():
            rate = learner.rate(params, step, name) if learner.moves(step, name) else 0.0
            if isinstance(rate, Tensor) and rate.dim():
                if name == CLASS_BIAS or (factors[at] is not None and factors[at] is not rate):
                    return None
                factors[at], rate = rate, 1.0
            by_step[step, at] = float(rate)
    return StepRates(by_step, factors)
