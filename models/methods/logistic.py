"""LR-D2: logistic regression on a learned embedding, by Newton's method (Bertinetto et al. 2019, arXiv:1805.08136, section 3.3).

The paper's is binary. This is multinomial, with the same n_support x n_support systems: all classes share one kernel, so Newton's
step for all of them needs one system per class and one for their sum (Rasmussen & Williams 2006, algorithm 3.3). The outer
gradient goes through the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from models.errors import InvalidOptions
from models.learner import Kind
from models.methods.head_space import Problem
from models.methods.objectives import mask_absent_classes
from models.methods.solved_head import KernelName, SolvedHead
from models.support import Params

LOG_PENALTY = "head.log_penalty"

# Chosen as for ridge: 20-way 1-shot is 94.8, 94.8 and 94.8 % with 0.3, 0.5 and 1, 20-way 5-shot 98.6, 98.7 and 98.5 %.
# Gaussian, 5-way 1-shot with a width of 0.3: 99.2 % with 0.03 and 0.1, 99.1 % with 0.3 and 1, at a sharpness of 10, 14, 20 and 40.
INITIAL_PENALTY: dict[KernelName, float] = {"linear": 0.5, "gaussian": 0.3}

STEP_LENGTHS = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Tried in this order. The full step diverges where there are many classes and little penalty: 20-way, 0.1 is enough."""

_MAX_BLOCK = 2**25
"""Numbers in the systems of one block of lanes: 256 MB."""


@dataclass(frozen=True)
class Logistic(SolvedHead):
    """Multinomial logistic regression with a penalty on the weights, from weights of zero."""

    KINDS: ClassVar[tuple[Kind, ...]] = ("classification",)
    INITIAL_SHARPNESS: ClassVar[dict[KernelName, float]] = {"linear": 10.0, "gaussian": 20.0}

    newton_steps: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.newton_steps < 1:
            raise InvalidOptions(f"logistic needs newton_steps >= 1, got {self.newton_steps}")

    @property
    def default_steps(self) -> int:
        return self.newton_steps

    def init_penalties(self) -> Params:
        return {LOG_PENALTY: torch.tensor(math.log(INITIAL_PENALTY[self.kernel]))}

    def solve(self, params: Params, problem: Problem, steps: int) -> list[Tensor]:
        penalty = params[LOG_PENALTY].double().exp()
        return [dual / penalty for dual in iterate_newton(problem, problem.kernel() / penalty, steps)]


def iterate_newton(problem: Problem, kernel: Tensor, steps: int) -> list[Tensor]:
    """Coefficients (lanes, n, ways) at the start and after each Newton step on sum_i w_i CE_i + trace(a^T kernel a) / 2.

    The scores are `kernel @ a`. At the optimum a_i = w_i (target_i - probabilities_i): the rows sum to zero.
    """
    dual = torch.zeros_like(problem.targets)
    duals = [dual]
    for _ in range(steps):
        towards = _newton_target(problem, kernel, dual)
        with torch.no_grad():
            length = _step_length(problem, kernel, dual, towards)
        dual = dual + length * (towards - dual)
        duals.append(dual)
    return duals


def _newton_target(problem: Problem, kernel: Tensor, dual: Tensor) -> Tensor:
    """Where the full Newton step leads, lanes in blocks: 64 classes of 10 examples each are 26 million numbers a lane."""
    scores = kernel @ dual
    weighted = problem.weights.unsqueeze(2)
    probabilities = mask_absent_classes(scores, problem.class_mask).softmax(2)
    curved = probabilities * (scores - (probabilities * scores).sum(2, keepdim=True))
    right = weighted * (curved + problem.targets - probabilities)
    n_lanes = max(1, _MAX_BLOCK // (right.shape[2] * kernel[0].numel()))
    blocks = zip(*(torch.split(t, n_lanes) for t in (kernel, weighted * probabilities, right, problem.weights > 0)), strict=True)
    return torch.cat([_solve_newton(*block) for block in blocks])


def _solve_newton(kernel: Tensor, curvature: Tensor, right: Tensor, mask: Tensor) -> Tensor:
    """b - c + E (sum_c E_c)^-1 sum_c c_c, with c = E K b and E_c = (D_c^-1 + K)^-1, in the words of algorithm 3.3.

    kernel (lanes, n, n), curvature D and right b (lanes, n, ways), mask (lanes, n). Padding has curvature zero, so E_c is zero
    there, and a one on the diagonal of the sum.
    """
    diagonal = curvature.mT.unsqueeze(3)  # (lanes, ways, n, 1)
    unit = torch.eye(kernel.shape[1], dtype=kernel.dtype, device=kernel.device)
    # Not the symmetric form with D^1/2: its derivative is infinite where D is zero.
    shrunk: Tensor = diagonal * torch.linalg.inv(unit + kernel.unsqueeze(1) * diagonal.mT)  # (lanes, ways, n, n)
    seen = (shrunk @ (kernel @ right).mT.unsqueeze(3)).squeeze(3).mT  # (lanes, n, ways)
    together = shrunk.sum(1) + torch.diag_embed((~mask).to(kernel.dtype))
    shift: Tensor = torch.linalg.solve(together, seen.sum(2, keepdim=True))  # (lanes, n, 1)
    return right - seen + (shrunk @ shift.unsqueeze(1)).squeeze(3).mT


def _step_length(problem: Problem, kernel: Tensor, dual: Tensor, towards: Tensor) -> Tensor:
    """The first of STEP_LENGTHS with which the objective does not grow, (lanes, 1, 1); the last, if none."""
    lengths, step = dual.new_tensor(STEP_LENGTHS), towards - dual
    # The start and all but the last at once: one after the other they took a small lane nearly as long as the steps themselves.
    tried = torch.cat([lengths.new_zeros(1), lengths[:-1]])[:, None, None, None]
    objectives = newton_objective(problem, dual + tried * step, kernel @ dual + tried * (kernel @ step))
    now, then = objectives[0], objectives[1:]
    # With some room: at the optimum rounding decides, and the full step must stay the choice there.
    is_allowed = then <= now + 1e-9 * now.abs()
    return lengths[(~is_allowed).int().cumprod(0).sum(0)][:, None, None]


def newton_objective(problem: Problem, dual: Tensor, scores: Tensor) -> Tensor:
    """What Newton's steps lower, (..., lanes), of coefficients and their scores, both (..., lanes, n, ways)."""
    log_probabilities = mask_absent_classes(scores, problem.class_mask).log_softmax(-1).masked_fill(~problem.class_mask.unsqueeze(1), 0)
    fit = -(problem.targets * log_probabilities).sum(-1) * problem.weights
    return fit.sum(-1) + (dual * scores).sum((-2, -1)) / 2
