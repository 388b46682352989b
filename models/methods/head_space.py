"""Where a solved head lives: the points it separates, and how its weights become an answer.

*Classes* are told apart on the unit sphere around the task's own centre. ReLU features share a large mean, which says nothing
about the class: on the bundled prototypes' features it is 96 % of a feature's length. Taken off, and every point at length one,
a penalty means the same in every task and with every backbone. The papers of `ridge`, `logistic` and `svm` solve on plain features.
*Values* are an affine function of the features that starts at a meta-learned one (Harrison et al. 2018, arXiv:1807.08912).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.methods.objectives import class_balanced_weights, mask_absent_classes
from models.support import Params, State, Support

CENTRE, LOG_CENTRE_WEIGHT, LOG_SHARPNESS = "head.centre", "head.log_centre_weight", "head.log_sharpness"
HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"
CLASS_WEIGHT, CLASS_MASK = "class.weight", "class.mask"
TASK_CENTRE = "centre"


@dataclass(frozen=True)
class Problem:
    """What a head is solved for, in float64: the systems are small, and float32 loses the answer where the penalty is small.

    points (lanes, n_support, d) and targets (lanes, n_support, m): class membership, or what the prior leaves of a value
    weights (lanes, n_support): an example of weight two counts as two examples. Padding has zeros in all three.
    class_mask (lanes, max_way), and centre (lanes, d) of the task's features, for classes.
    """

    points: Tensor
    targets: Tensor
    weights: Tensor
    class_mask: Tensor
    centre: Tensor

    def kernel(self) -> Tensor:
        """Inner products of all pairs of points, (lanes, n_support, n_support)."""
        return self.points @ self.points.mT


class HeadSpace(Protocol):
    """How features become points, and a head of solved weights (lanes, m, d) an adapted state and an answer."""

    def init(self) -> Params: ...

    def pose(self, params: Params, features: Tensor, support: Support) -> Problem: ...

    def make_state(self, params: Params, problem: Problem, head: Tensor) -> State: ...

    def place(self, state: State, features: Tensor) -> Tensor: ...

    def score(self, state: State, features: Tensor) -> Tensor: ...

    def answer(self, params: Params, state: State, features: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Sphere:
    """Points of unit length around a centre: the mean of the class means, drawn towards a meta-learned one.

    `width`: of a feature; `sharpness`: what scores are multiplied with to be logits, before it is meta-learned.
    """

    width: int
    sharpness: float

    def init(self) -> Params:
        """A centre at the origin that weighs as much as one class."""
        sharpness = torch.tensor(math.log(self.sharpness))
        return {CENTRE: torch.zeros(self.width), LOG_CENTRE_WEIGHT: torch.tensor(0.0), LOG_SHARPNESS: sharpness}

    def pose(self, params: Params, features: Tensor, support: Support) -> Problem:
        shares = class_balanced_weights(support, features.dtype)  # of an example in its class
        ways = support.class_mask.sum(1, keepdim=True)
        prior = params[LOG_CENTRE_WEIGHT].exp()
        centre = ((shares.unsqueeze(2) * features).sum(1) + prior * params[CENTRE]) / (ways + prior)
        # Classes weigh alike, and all examples together as many as there are, as in scikit-learn's class_weight="balanced":
        # with equal shots these are the published heads, and with ragged ones no class outweighs another.
        weights = shares * support.mask.sum(1, keepdim=True) / ways
        members = F.one_hot(support.targets, support.max_way) * support.mask.unsqueeze(2)
        points = _on_sphere(features, centre) * support.mask.unsqueeze(2)
        return Problem(points.double(), members.double(), weights.double(), support.class_mask, centre)

    def make_state(self, params: Params, problem: Problem, head: Tensor) -> State:
        return {CLASS_WEIGHT: head.to(problem.centre.dtype), CLASS_MASK: problem.class_mask.clone(), TASK_CENTRE: problem.centre}

    def place(self, state: State, features: Tensor) -> Tensor:
        return _on_sphere(features, state[TASK_CENTRE])

    def score(self, state: State, features: Tensor) -> Tensor:
        """Logits of unit sharpness: what the convex problem is about."""
        return mask_absent_classes(self.place(state, features) @ state[CLASS_WEIGHT].mT, state[CLASS_MASK])

    def answer(self, params: Params, state: State, features: Tensor) -> Tensor:
        return self.score(state, features) * params[LOG_SHARPNESS].exp()


@dataclass(frozen=True)
class Affine:
    """Features with a one behind them; the head is what a task adds to the meta-learned weights and bias."""

    width: int
    n_out: int

    def init(self) -> Params:
        """A prior of zero everywhere."""
        return {HEAD_WEIGHT: torch.zeros(self.n_out, self.width), HEAD_BIAS: torch.zeros(self.n_out)}

    def pose(self, params: Params, features: Tensor, support: Support) -> Problem:
        points, weights = _with_one(features), support.mask.double()
        residuals = support.targets - points @ _prior(params).mT
        mask = weights.unsqueeze(2)
        return Problem(points * mask, residuals * mask, weights, support.class_mask, features.new_zeros(support.lanes, 0))

    def make_state(self, params: Params, problem: Problem, head: Tensor) -> State:
        prior = _prior(params)
        return {HEAD_WEIGHT: prior + head.to(prior.dtype)}

    def place(self, state: State, features: Tensor) -> Tensor:
        return _with_one(features)

    def score(self, state: State, features: Tensor) -> Tensor:
        return self.place(state, features) @ state[HEAD_WEIGHT].mT

    def answer(self, params: Params, state: State, features: Tensor) -> Tensor:
        return self.score(state, features)


def _on_sphere(features: Tensor, centre: Tensor) -> Tensor:
    return F.normalize(features - centre.unsqueeze(1), dim=2)


def _with_one(features: Tensor) -> Tensor:
    return F.pad(features, (0, 1), value=1.0)


def _prior(params: Params) -> Tensor:
    """(n_out, width + 1)"""
    return torch.cat([params[HEAD_WEIGHT], params[HEAD_BIAS].unsqueeze(1)], dim=1)
