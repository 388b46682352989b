"""A world for the laws: one learner, its meta-parameters, and random tasks of ragged ways and shots."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from models.learner import Learner
from models.methods import build_learner
from models.support import Params, State, Support, make_support
from tests.laws.learners import SPECS

# In float64, so that a law is told from rounding: the sums of a shuffled support set differ by 3e-5 in float32 after
# three inner steps of an untrained network. tests/models/test_initializers.py holds the laws in float32 on the real ones.
TOLERANCE = 1e-9


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Equal up to float64 rounding; NaN equals NaN (the accuracy of regression)."""
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


@dataclass(frozen=True)
class World:
    """A learner with fixed meta-parameters and a source of random tasks."""

    learner: Learner
    params: Params
    generator: torch.Generator

    def inputs(self, count: int) -> Tensor:
        return torch.rand(count, *self.learner.input_shape, generator=self.generator, dtype=torch.float64)

    def support(self, n_way: int = 4, shots: tuple[int, ...] = (1, 3, 2, 1)) -> Support:
        """One task with `shots[c]` examples of class c, or a regression task of as many points."""
        count = sum(shots[:n_way])
        if self.learner.kind == "regression":
            return make_support(self.inputs(count), torch.randn(count, 1, generator=self.generator, dtype=torch.float64))
        targets = torch.repeat_interleave(torch.arange(n_way), torch.tensor(shots[:n_way]))
        return make_support(self.inputs(count), targets, n_way)

    def adapt(self, support: Support, steps: int | None = None) -> State:
        return self.learner.adapt(self.params, support, steps).state

    def predict(self, state: State, queries: Tensor) -> Tensor:
        """Outputs (lanes, n_query, ...) as probabilities, or values for regression: what a client sees."""
        with torch.no_grad():
            outputs = self.learner.predict(self.params, state, queries)
        return outputs if self.learner.kind == "regression" else outputs.softmax(-1)

    def answer(self, support: Support, queries: Tensor) -> Tensor:
        """Probabilities or values (n_query, ...) for one task's queries."""
        return self.predict(self.adapt(support), queries.unsqueeze(0))[0]


def draw_params(learner: Learner, generator: torch.Generator) -> Params:
    """Meta-parameters in float64 with scales and shifts away from their neutral start, so that no law holds by accident."""
    params = learner.init(generator)
    return {name: tensor.double() + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in params.items()}


def make_world(name: str) -> World:
    """The world of one of `SPECS`."""
    learner, generator = build_learner(SPECS[name]), torch.Generator().manual_seed(7)
    return World(learner, draw_params(learner, generator), generator)


@pytest.fixture(params=sorted(SPECS))
def world(request: pytest.FixtureRequest) -> World:
    return make_world(request.param)
