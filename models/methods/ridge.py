"""R2D2: ridge regression on a learned embedding, in closed form (Bertinetto et al. 2019, arXiv:1805.08136).

The outer gradient goes through the solution, so the embedding learns to be good for ridge regression. The penalty and the
sharpness of the answer are meta-learned (section 3.2). The paper's bias is not: one number on all logits changes no softmax.
Regression has weights and a bias to start from instead, and solves for what a task adds to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from models.errors import InvalidOptions
from models.learner import BODY, Adaptation, Kind
from models.methods.closed_native import GaussianRidge, SphereRidge, solve_natively
from models.methods.head_space import (
    CENTRE,
    CLASS_MASK,
    CLASS_WEIGHT,
    DUAL,
    EXAMPLE_MASK,
    LOG_CENTRE_WEIGHT,
    LOG_SHARPNESS,
    LOG_WIDTH,
    POINT,
    SCALE,
    TASK_CENTRE,
    Affine,
    HeadSpace,
    Problem,
)
from models.methods.solved_head import KernelName, SolvedHead
from models.support import Params, Support

LOG_PENALTY = "head.log_penalty"

# Chosen on validation classes with the bundled prototypes' embedding, untrained for ridge: 20-way 1-shot is 94.4, 94.8 and
# 94.8 % with a penalty of 1, 3 and 10, 20-way 5-shot 98.3, 98.4 and 98.5 %; the cross entropy is least at a sharpness near 50.
# Gaussian, with a width of 0.3: 96.5, 96.4 and 96.4 % with 0.3, 1 and 3, and 99.1 % with each; the sharpness is near 56 and 28.
INITIAL_PENALTY: dict[KernelName, float] = {"linear": 3.0, "gaussian": 1.0}


@dataclass(frozen=True)
class Ridge(SolvedHead):
    """Least squares to class membership, or to values, with a penalty on the weights."""

    KINDS: ClassVar[tuple[Kind, ...]] = ("classification", "regression")
    INITIAL_SHARPNESS: ClassVar[dict[KernelName, float]] = {"linear": 48.0, "gaussian": 40.0}

    n_out: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_out < 1:
            raise InvalidOptions(f"ridge needs n_out >= 1, got {self.n_out}")
        if self.kind == "regression" and self.kernel != "linear":
            raise InvalidOptions(f"ridge solves regression with kernel 'linear' only, got {self.kernel!r}")

    @property
    def space(self) -> HeadSpace:
        return Affine(self.backbone.feature_dim, self.n_out) if self.kind == "regression" else super().space

    def init_penalties(self) -> Params:
        return {LOG_PENALTY: torch.tensor(math.log(INITIAL_PENALTY[self.kernel]))}

    def solve(self, params: Params, problem: Problem, steps: int) -> list[Tensor]:
        targets = problem.targets
        if self.kind == "classification":
            # Around zero: the probabilities stay the same, and an example then speaks against the classes that it is not of.
            targets = targets - (problem.class_mask / problem.class_mask.sum(1, keepdim=True, dtype=targets.dtype)).unsqueeze(1)
        penalty = params[LOG_PENALTY].double().exp()
        if self.kernel == "gaussian":
            return [solve_kernel_ridge(problem.kernel(), targets, problem.weights, penalty)]
        return [solve_ridge(problem.points, targets, problem.weights, penalty)]

    def adapt_natively(self, params: Params, support: Support) -> Adaptation | None:
        if self.kind == "regression" or not support.inputs.is_cpu:  # to ask another device for the figures would mean waiting for it
            return None
        head = _describe_gaussian(params) if self.kernel == "gaussian" else _describe_sphere(params)
        found = solve_natively(self.backbone, params, support, prefix=BODY, head=head)
        if found is None:
            return None
        class_mask = support.class_mask.clone()
        if self.kernel == "gaussian":
            examples = {POINT: found.rows, EXAMPLE_MASK: support.mask.clone(), DUAL: found.duals}
            state = {**examples, CLASS_MASK: class_mask, SCALE: found.frame}
        else:
            state = {CLASS_WEIGHT: found.rows, CLASS_MASK: class_mask, TASK_CENTRE: found.frame}
        return Adaptation(state, found.loss, found.accuracy, found.features)


def _describe_sphere(params: Params) -> SphereRidge:
    weight, penalty, sharpness = (math.exp(params[name].item()) for name in (LOG_CENTRE_WEIGHT, LOG_PENALTY, LOG_SHARPNESS))
    return SphereRidge(params[CENTRE], weight, penalty, sharpness)


def _describe_gaussian(params: Params) -> GaussianRidge:
    return GaussianRidge(*(math.exp(params[name].item()) for name in (LOG_WIDTH, LOG_PENALTY, LOG_SHARPNESS)))


def solve_ridge(points: Tensor, targets: Tensor, weights: Tensor, penalty: Tensor) -> Tensor:
    """Dual coefficients of the W that minimises sum_i w_i |t_i - W p_i|^2 + penalty |W|^2; W is `dual.T @ points`.

    points (lanes, n, d), targets (lanes, n, m), weights (lanes, n), penalty scalar; returns (lanes, n, m). Solves the smaller
    of an n x n system (the Woodbury form, eq. 5 of the paper) and a d x d one. An example of weight zero gets zeros and
    changes nothing: its row and column of the system hold the penalty alone.
    """
    root = weights.sqrt().unsqueeze(2)
    rows, goals = root * points, root * targets
    if points.shape[1] <= points.shape[2]:
        return root * _solve_positive(torch.bmm(rows, rows.mT), penalty, goals)
    head = _solve_positive(rows.mT @ rows, penalty, rows.mT @ goals)  # (lanes, d, m)
    return root * (goals - rows @ head) / penalty


def solve_kernel_ridge(kernel: Tensor, targets: Tensor, weights: Tensor, penalty: Tensor) -> Tensor:
    """The same from the inner products of the points alone, (lanes, n, n): of points in any space."""
    root = weights.sqrt().unsqueeze(2)
    return root * _solve_positive(root * kernel * root.mT, penalty, root * targets)


def _solve_positive(gram: Tensor, penalty: Tensor, right: Tensor) -> Tensor:
    """(gram + penalty I)^-1 right"""
    unit = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.cholesky_solve(right, torch.linalg.cholesky(gram + penalty * unit))
