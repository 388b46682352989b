"""Where a solved head lives: the points it separates, and how its weights become an answer.

*Classes* are told apart on the unit sphere around the task's own centre. ReLU features share a large mean, which says nothing
about the class: on the bundled prototypes' features it is 96 % of a feature's length. Taken off, and every point at length one,
a penalty means the same in every task and with every backbone. The papers of `ridge`, `logistic` and `svm` solve on plain features.
With a *Gaussian kernel* classes are told apart by how near a query is to each example, in units of the task's own spread: no
hyperplane has to part them, and a state keeps its examples.
*Values* are an affine function of the features that starts at a meta-learned one (Harrison et al. 2018, arXiv:1807.08912).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.learner import RowHead
from models.methods.objectives import class_balanced_weights, mask_absent_classes, spread_by_class
from models.support import Params, State, Support

CENTRE, LOG_CENTRE_WEIGHT, LOG_SHARPNESS = "head.centre", "head.log_centre_weight", "head.log_sharpness"
LOG_WIDTH = "head.log_width"
HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"
CLASS_WEIGHT, CLASS_MASK = "class.weight", "class.mask"
TASK_CENTRE, SCALE = "centre", "scale"
POINT, EXAMPLE_MASK, DUAL = "example.point", "example.mask", "pair.dual"

# Chosen on validation classes with the bundled prototypes' embedding: from 0.2 to 0.5 benchmarks/closed_form_heads.py sees no difference.
INITIAL_WIDTH = 0.3

SMALLEST_SPREAD = 1e-6
"""Mean squared distance of examples, in mean squared lengths, below which they count as equal: float32 cannot tell them apart well."""

SHORTEST = 1e-12
"""Length that a shorter difference from the centre is divided by."""

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Points (lanes, n, d) and (lanes, m, d) to what each pair of them has in common, (lanes, n, m)."""


def linear_kernel(points: Tensor, others: Tensor) -> Tensor:
    """Inner products."""
    return points @ others.mT


def gaussian_kernel(points: Tensor, others: Tensor) -> Tensor:
    """exp(-|x - y|^2)"""
    return (-_squared_distances(points, others)).exp()


@dataclass(frozen=True)
class Problem:
    """What a head is solved for, in float64: the systems are small, and float32 loses the answer where the penalty is small.

    points (lanes, n_support, d) and targets (lanes, n_support, m): class membership, or what the prior leaves of a value
    weights (lanes, n_support): an example of weight two counts as two examples. Padding has zeros in all three.
    class_mask (lanes, max_way); frame: what of the task its points were made with, in the features' own type (see each space).
    """

    points: Tensor
    targets: Tensor
    weights: Tensor
    class_mask: Tensor
    frame: Tensor
    compare: Kernel = linear_kernel

    def kernel(self) -> Tensor:
        """Of all pairs of points, (lanes, n_support, n_support)."""
        return self.compare(self.points, self.points)


class HeadSpace(Protocol):
    """How features become points, and dual coefficients (lanes, n_support, m) an adapted state and an answer."""

    def init(self) -> Params: ...

    def pose(self, params: Params, features: Tensor, support: Support) -> Problem: ...

    def make_state(self, params: Params, problem: Problem, dual: Tensor) -> State: ...

    def place(self, state: State, features: Tensor) -> Tensor:
        """Points (lanes, n, d) of features, in the type of these."""
        ...

    def score(self, state: State, points: Tensor) -> Tensor:
        """What the convex problem is about: logits of unit sharpness, or values, (lanes, n, m)."""
        ...

    def sharpen(self, params: Params, scores: Tensor) -> Tensor:
        """The answer that scores stand for."""
        ...


@dataclass(frozen=True)
class Sphere:
    """Points of unit length around a centre, the frame: the mean of the class means, drawn towards a meta-learned one.

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
        sums = torch.bmm(shares.unsqueeze(1), features).squeeze(1)
        centre = torch.addcmul(sums, prior, params[CENTRE]) / (ways + prior)
        points = _on_sphere(features, centre) * support.mask.unsqueeze(2)
        return Problem(points.double(), _members(support), _balance(shares, support, ways), support.class_mask, centre)

    def make_state(self, params: Params, problem: Problem, dual: Tensor) -> State:
        head = torch.bmm(dual.mT, problem.points)  # (lanes, max_way, d)
        return {CLASS_WEIGHT: head.to(problem.frame.dtype), CLASS_MASK: problem.class_mask.clone(), TASK_CENTRE: problem.frame}

    def place(self, state: State, features: Tensor) -> Tensor:
        return _on_sphere(features, state[TASK_CENTRE])

    def score(self, state: State, points: Tensor) -> Tensor:
        """Logits of unit sharpness: what the convex problem is about."""
        return mask_absent_classes(torch.bmm(points, state[CLASS_WEIGHT].mT), state[CLASS_MASK])

    def sharpen(self, params: Params, scores: Tensor) -> Tensor:
        return scores * params[LOG_SHARPNESS].exp()

    def row_head(self, params: Params) -> RowHead:
        """The same, as what a CPU does behind the features in one call."""
        return RowHead(CLASS_WEIGHT, centre=TASK_CENTRE, on_sphere=True, sharpness=params[LOG_SHARPNESS].exp().item())


@dataclass(frozen=True)
class Gaussian:
    """Features in units of the task's spread, compared by a Gaussian kernel; the frame is that unit, (lanes, 1).

    Its square is a meta-learned share of the mean squared distance of the examples, in which classes weigh alike.
    """

    sharpness: float

    def init(self) -> Params:
        return {LOG_WIDTH: torch.tensor(math.log(INITIAL_WIDTH)), LOG_SHARPNESS: torch.tensor(math.log(self.sharpness))}

    def pose(self, params: Params, features: Tensor, support: Support) -> Problem:
        shares = class_balanced_weights(support, features.dtype).double()
        points = features.double() * support.mask.unsqueeze(2)
        squared = params[LOG_WIDTH].double().exp() * _spread(points, shares)  # (lanes, 1)
        points, scale = points / squared.sqrt().unsqueeze(2), squared.sqrt().to(features.dtype)
        ways = support.class_mask.sum(1, keepdim=True)
        return Problem(points, _members(support), _balance(shares, support, ways), support.class_mask, scale, gaussian_kernel)

    def make_state(self, params: Params, problem: Problem, dual: Tensor) -> State:
        kind = problem.frame.dtype
        examples = {POINT: problem.points.to(kind), EXAMPLE_MASK: problem.weights > 0, DUAL: dual.to(kind).contiguous()}
        return {**examples, CLASS_MASK: problem.class_mask.clone(), SCALE: problem.frame}

    def place(self, state: State, features: Tensor) -> Tensor:
        return features / state[SCALE].unsqueeze(2)

    def score(self, state: State, points: Tensor) -> Tensor:
        kernel = gaussian_kernel(points, state[POINT])  # (lanes, n_query, n_support)
        return mask_absent_classes(torch.bmm(kernel, state[DUAL]), state[CLASS_MASK])

    def sharpen(self, params: Params, scores: Tensor) -> Tensor:
        return scores * params[LOG_SHARPNESS].exp()


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

    def make_state(self, params: Params, problem: Problem, dual: Tensor) -> State:
        prior = _prior(params)
        return {HEAD_WEIGHT: prior + (dual.mT @ problem.points).to(prior.dtype)}

    def place(self, state: State, features: Tensor) -> Tensor:
        return _with_one(features)

    def score(self, state: State, points: Tensor) -> Tensor:
        return torch.bmm(points, state[HEAD_WEIGHT].mT)

    def sharpen(self, params: Params, scores: Tensor) -> Tensor:
        return scores


def _members(support: Support) -> Tensor:
    """Class membership (lanes, n_support, max_way), zero for padding."""
    return spread_by_class(support.mask.double(), support)


def _balance(shares: Tensor, support: Support, ways: Tensor) -> Tensor:
    """Weights (lanes, n_support) from the share that each example has of its class.

    Classes weigh alike, and all examples together as many as there are, as in scikit-learn's class_weight="balanced": with equal
    shots these are the published heads, and with ragged ones no class outweighs another.
    """
    return (shares * support.mask.sum(1, keepdim=True) / ways).double()


def _spread(points: Tensor, shares: Tensor) -> Tensor:
    """Mean squared distance (lanes, 1) of two different examples that are drawn by their shares; positive also where all are equal."""
    share = (shares / shares.sum(1, keepdim=True)).unsqueeze(2)  # (lanes, n, 1)
    pairs = share @ share.mT
    different = 1 - share.square().sum((1, 2))
    spread = (pairs * _squared_distances(points, points)).sum((1, 2)) / different
    length = (share * points.square()).sum((1, 2))
    spread = spread.maximum(SMALLEST_SPREAD * length)
    return spread.where(spread > 0, 1).unsqueeze(1)


def _squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """(lanes, n, m), by one matrix product: seen from one of them, or a mean that all share would drown the distances."""
    origin = others[:, :1].detach()
    points, others = points - origin, others - origin
    squares = points.square().sum(2, keepdim=True) + others.square().sum(2, keepdim=True).mT
    return (squares - 2 * points @ others.mT).clamp(min=0)


def _on_sphere(features: Tensor, centre: Tensor) -> Tensor:
    away = features - centre.unsqueeze(1)
    lengths: Tensor = torch.linalg.vector_norm(away, dim=2, keepdim=True)
    return away / lengths.clamp(min=SHORTEST)


def _with_one(features: Tensor) -> Tensor:
    return F.pad(features, (0, 1), value=1.0)


def _prior(params: Params) -> Tensor:
    """(n_out, width + 1)"""
    return torch.cat([params[HEAD_WEIGHT], params[HEAD_BIAS].unsqueeze(1)], dim=1)
