"""What ridge regression, logistic regression and the SVM share: a shared embedding under a convex head that is solved anew for each task.

By the representer theorem each of them is a matrix of dual coefficients, one per support example and class: what an example says
about a query is coefficient times kernel. With a linear kernel the weights are `dual.T @ points`, so a prediction is one matrix
product and a state as large as its classes; a Gaussian kernel bends the borders between the classes, and a state keeps the examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from models.backbones import Backbone
from models.errors import InvalidOptions
from models.learner import Adaptation, Kind, RowHead
from models.methods.head_space import Gaussian, HeadSpace, Problem, Sphere
from models.methods.objectives import measure_support
from models.methods.shared_embedding import SharedEmbedding
from models.support import Params, State, Support

KernelName = Literal["linear", "gaussian"]


@dataclass(frozen=True)
class SolvedHead(SharedEmbedding, ABC):
    """An embedding and a convex problem; a method says how it is solved, and how sharp the answers are before training."""

    INITIAL_SHARPNESS: ClassVar[dict[KernelName, float]]

    kind: Kind
    backbone: Backbone
    kernel: KernelName = "linear"

    def __post_init__(self) -> None:
        if self.kernel not in get_args(KernelName):
            raise InvalidOptions(f"kernel must be one of {list(get_args(KernelName))}, got {self.kernel!r}")

    @property
    def space(self) -> HeadSpace:
        sharpness = self.INITIAL_SHARPNESS[self.kernel]
        return Gaussian(sharpness) if self.kernel == "gaussian" else Sphere(self.backbone.feature_dim, sharpness)

    @abstractmethod
    def init_penalties(self) -> Params:
        """The meta-parameters of the convex problem itself."""

    @abstractmethod
    def solve(self, params: Params, problem: Problem, steps: int) -> list[Tensor]:
        """Dual coefficients (lanes, n_support, m) in float64, zero for padding: of the start and every step, or of the solution alone."""

    def adapt_natively(self, params: Params, support: Support) -> Adaptation | None:
        """The same as `adapt` without a derivative, in C; None where torch does it."""
        return None

    def init(self, generator: torch.Generator) -> Params:
        return {**self.init_body(generator), **self.space.init(), **self.init_penalties()}

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        steps = self.default_steps if steps is None else steps
        if steps < 0:
            raise InvalidOptions(f"steps must be at least 0, got {steps}")
        if not differentiable and (found := self.adapt_natively(params, support)) is not None:
            return found
        with torch.set_grad_enabled(differentiable):
            features = self.embed(params, support.inputs)
            problem = self.space.pose(params, features, support)
            duals = self.solve(params, problem, steps)
            states = [self.space.make_state(params, problem, dual) for dual in duals]
        with torch.no_grad():
            points = problem.points.to(features.dtype)
            losses, accuracies = zip(*(self._measure(params, state, points, support) for state in states), strict=True)
        return Adaptation(states[-1], torch.stack(losses, 1), torch.stack(accuracies, 1), features)

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        return self.space.sharpen(params, self.space.score(state, self.space.place(state, self.embed(params, queries))))

    def row_head(self, params: Params) -> RowHead | None:
        space = self.space
        return space.row_head(params) if isinstance(space, Sphere) else None

    def explain(self, params: Params, state: State, support: Support, queries: Tensor) -> Tensor:
        """Dual coefficient times kernel: these add up to the predicted class's score, or to what the task changed in the value.

        Not every state keeps its coefficients, so the head is solved once more, with the default number of steps.
        """
        with torch.no_grad():
            problem = self.space.pose(params, self.embed(params, support.inputs), support)
            dual = self.solve(params, problem, self.default_steps)[-1]
            points = self.space.place(state, self.embed(params, queries))
            spoken = problem.compare(points.double(), problem.points)  # (lanes, n_query, n_support)
            shares = spoken * self._chosen(state, dual, points)
            total = shares.abs().sum(2, keepdim=True)
            return (shares / total.clamp(min=torch.finfo(total.dtype).tiny)).to(points.dtype)

    def _chosen(self, state: State, dual: Tensor, points: Tensor) -> Tensor:
        """Coefficients (lanes, n_query, n_support) of each query's predicted class; of the mean of the outputs for values."""
        if self.kind == "regression":
            return dual.mean(2).unsqueeze(1)
        predicted = self.space.score(state, points).argmax(2)  # (lanes, n_query)
        return dual.mT.gather(1, predicted.unsqueeze(2).expand(-1, -1, dual.shape[1]))

    def _measure(self, params: Params, state: State, points: Tensor, support: Support) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of each lane on its support set: with steps, what the steps descend on; else as it would be answered."""
        scores = self.space.score(state, points)
        return measure_support(self.kind, scores if self.default_steps else self.space.sharpen(params, scores), support)
