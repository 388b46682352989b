"""Soft decision trees: every split is a sigmoid, so an example reaches every leaf with some probability (Frosst & Hinton 2017,
arXiv:1711.09784), and a tree asks one question per level (oblivious, as in NODE, Popov et al. 2020, arXiv:1909.06312).

The questions (hyperplane, threshold, steepness) are meta-learned and shared by all tasks; they are asked about the direction in which
an example lies from its own task's centre. The leaves are fitted anew for each task in closed form, so the outer gradient goes through
the fit to the questions. With the probability of a leaf as one feature, a forest is a linear model of as many features as it has leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.methods.class_attention import sign_by_class
from models.methods.head_space import CLASS_MASK, LOG_SHARPNESS, TASK_CENTRE, Problem, Sphere
from models.methods.objectives import class_balanced_weights, mask_absent_classes
from models.methods.ridge import solve_ridge
from models.support import Params, State, Support

Leaves = Literal["ridge", "frequency"]

CLASS_LEAF = "class.leaf"
HYPERPLANE, THRESHOLD, LOG_STEEPNESS = "tree.hyperplane", "tree.threshold", "tree.log_steepness"
LOG_PENALTY = "leaf.log_penalty"

# Chosen on validation classes with the bundled prototypes' embedding and random questions. With 32 trees of depth 4, 20-way 1-shot
# is 93.4 % at a steepness of 1, 90.3 % at 5 and 85.1 % at 50, where the questions are as good as hard.
INITIAL_STEEPNESS = 1.0
INITIAL_PENALTY = {"ridge": 0.1, "frequency": 0.01}
INITIAL_SHARPNESS = {"ridge": 40.0, "frequency": 30.0}


@dataclass(frozen=True)
class SoftTrees:
    """`n_trees` trees of 2^`depth` leaves each, over features of `width` numbers.

    leaves: `ridge` fits the values of all leaves of all trees together, by least squares to class membership, and the answer is their
    sum; `frequency` gives each leaf the smoothed class frequencies of what reaches it, and the answer is the mean of the trees.
    """

    width: int
    n_trees: int
    depth: int
    leaves: Leaves

    def init(self, generator: torch.Generator) -> Params:
        """Random hyperplanes through the centre. Directions have length one, so what a question reads has a variance of one."""
        space = Sphere(self.width, INITIAL_SHARPNESS[self.leaves])
        return {
            HYPERPLANE: torch.randn(self.n_trees, self.depth, self.width, generator=generator),
            THRESHOLD: torch.zeros(self.n_trees, self.depth),
            LOG_STEEPNESS: torch.full((self.n_trees, self.depth), math.log(INITIAL_STEEPNESS)),
            LOG_PENALTY: torch.tensor(math.log(INITIAL_PENALTY[self.leaves])),
            **space.init(),
        }

    def grow(self, params: Params, features: Tensor, support: Support) -> State:
        """The values of the leaves of each task, (lanes, max_way, n_trees * 2^depth), and the centre its questions are asked around."""
        problem = self._space.pose(params, features, support)
        memberships = self._reach(params, problem.points.to(features.dtype))
        values = self._fit(params, memberships, problem, support)
        return {CLASS_LEAF: values, CLASS_MASK: support.class_mask.clone(), TASK_CENTRE: problem.frame}

    def answer(self, params: Params, state: State, features: Tensor) -> Tensor:
        """Logits (lanes, n, max_way) of features (lanes, n, width)."""
        scores = self._score(params, state, features)
        scores = scores if self.leaves == "ridge" else scores.clamp(min=torch.finfo(scores.dtype).tiny).log()
        return mask_absent_classes(scores * params[LOG_SHARPNESS].exp(), state[CLASS_MASK])

    def explain(self, params: Params, state: State, support: Support, features: Tensor, queries: Tensor) -> Tensor:
        """How often query and example meet in a leaf, times what the example said there.

        With `ridge` that is its dual coefficient for the predicted class, and the parts add up to the class's score. With `frequency`
        it is its share of the leaf: the parts of the class's own members add up to its probability, but for the smoothing, and those
        of the other classes are what the other classes got.
        """
        problem = self._space.pose(params, features, support)
        memberships = self._reach(params, problem.points.to(features.dtype))
        reached = self._reach(params, self._space.place(state, queries))
        predicted = self._score(params, state, queries).masked_fill(~state[CLASS_MASK].unsqueeze(1), -torch.inf).argmax(-1)
        if self.leaves == "ridge":
            dual = self._solve(params, memberships, problem).to(reached.dtype).mT  # (lanes, max_way, n_support)
            coefficients = dual.gather(1, predicted.unsqueeze(2).expand(-1, -1, dual.shape[2]))
            parts = reached @ memberships.mT * coefficients
        else:
            share, mass = _weigh(memberships, support)
            meetings = (reached / (mass + self._smoothing(params)).unsqueeze(1)) @ share.mT
            parts = sign_by_class(meetings, support.targets, predicted)
        return parts / parts.abs().sum(-1, keepdim=True).clamp(min=torch.finfo(parts.dtype).tiny)

    @property
    def _space(self) -> Sphere:
        return Sphere(self.width, INITIAL_SHARPNESS[self.leaves])

    def _smoothing(self, params: Params) -> Tensor:
        """Examples, spread evenly over the classes, that every leaf has before the first one comes; in the scale of `_reach`."""
        return params[LOG_PENALTY].exp() / math.sqrt(self.n_trees)

    def _reach(self, params: Params, points: Tensor) -> Tensor:
        """Probability of each leaf, over the root of the number of trees: (lanes, n, width) to (lanes, n, n_trees * 2^depth).

        So the inner product of two rows is the mean over trees of the probability to meet in a leaf.
        """
        asked = (points @ params[HYPERPLANE].flatten(0, 1).mT).reshape(*points.shape[:-1], self.n_trees, self.depth)
        right = ((asked - params[THRESHOLD]) * params[LOG_STEEPNESS].exp()).sigmoid()
        paths = right.new_full((*right.shape[:-1], 1), 1 / math.sqrt(self.n_trees))
        for level in range(self.depth):
            yes = right[..., level : level + 1]
            paths = torch.cat([paths * (1 - yes), paths * yes], dim=-1)
        return paths.flatten(-2)

    def _fit(self, params: Params, memberships: Tensor, problem: Problem, support: Support) -> Tensor:
        if self.leaves == "ridge":
            dual = self._solve(params, memberships, problem)
            return (dual.mT @ memberships.double()).to(memberships.dtype)
        share, mass = _weigh(memberships, support)
        smoothing, real = self._smoothing(params), support.class_mask.unsqueeze(2)
        members = problem.targets.to(share.dtype).mT @ share  # (lanes, max_way, leaves)
        return (members + smoothing * real / real.sum(1, keepdim=True)) / (mass + smoothing).unsqueeze(1)

    def _solve(self, params: Params, memberships: Tensor, problem: Problem) -> Tensor:
        """Dual coefficients (lanes, n_support, max_way) of the ridge regression to class membership around its mean."""
        mask = problem.class_mask.double().unsqueeze(1)
        targets = problem.targets - mask / mask.sum(2, keepdim=True)
        return solve_ridge(memberships.double(), targets, problem.weights, params[LOG_PENALTY].double().exp())

    def _score(self, params: Params, state: State, features: Tensor) -> Tensor:
        """Sum over the trees' leaves of probability times value: what the classes are ranked by."""
        reached = self._reach(params, self._space.place(state, features))
        scale = 1.0 if self.leaves == "ridge" else 1 / math.sqrt(self.n_trees)
        return (reached @ state[CLASS_LEAF].mT) * scale


def _weigh(memberships: Tensor, support: Support) -> tuple[Tensor, Tensor]:
    """Memberships (lanes, n_support, leaves) by class-balanced weight, zero for padding, and their sums in each leaf (lanes, leaves)."""
    share = memberships * class_balanced_weights(support, memberships.dtype).unsqueeze(2)
    return share, share.sum(1)
