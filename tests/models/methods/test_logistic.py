"""Logistic regression against scikit-learn at the optimum, and each Newton step against a dense one in the weights."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from models.errors import InvalidOptions
from models.methods import logistic
from models.methods.head_space import Problem
from models.methods.logistic import iterate_newton, newton_objective
from models.support import stack_supports
from tests.models.methods.tiny_heads import Seen, build, make_classes, make_params, penalty_of, see


@pytest.mark.parametrize("width", [3, 30])
def test_weights_equal_scikit_learns_at_the_optimum(width: int) -> None:
    learner = build("logistic", width, newton_steps=12)
    params, (support, queries) = make_params(learner), make_classes()
    state = learner.adapt(params, support).state
    seen = see(learner, params, support, queries)
    reference = LogisticRegression(C=1 / penalty_of(params), fit_intercept=False, class_weight="balanced", tol=1e-10, max_iter=10_000)
    reference.fit(seen.points, seen.targets)
    np.testing.assert_allclose(state["class.weight"][0].numpy(), reference.coef_, rtol=1e-5, atol=1e-6)


def step_densely(seen: Seen, penalty: float, weight: Tensor) -> Tensor:
    """One Newton step on the weights, with the whole Hessian of ways x d unknowns by automatic differentiation."""
    points, targets, shares = torch.from_numpy(seen.points), torch.from_numpy(seen.targets), torch.from_numpy(seen.weights)

    def objective(flat: Tensor) -> Tensor:
        losses = F.cross_entropy(points @ flat.view_as(weight).T, targets, reduction="none")
        return (shares * losses).sum() + penalty / 2 * flat.square().sum()

    flat = weight.flatten()
    gradient, hessian = (getattr(torch.autograd.functional, name)(objective, flat) for name in ("jacobian", "hessian"))
    moved: Tensor = flat - torch.linalg.solve(hessian, gradient)
    return moved.view_as(weight)


def test_each_step_is_newtons() -> None:
    learner = build("logistic")
    params, (support, queries) = make_params(learner), make_classes()
    seen = see(learner, params, support, queries)
    expected = torch.zeros(4, 5, dtype=torch.float64)
    for steps in (1, 2, 3):
        expected = step_densely(seen, penalty_of(params), expected)
        torch.testing.assert_close(learner.adapt(params, support, steps).state["class.weight"][0], expected, rtol=1e-8, atol=1e-10)


def make_problem(lanes: int, ways: int, count: int, width: int, spread: float) -> Problem:
    generator = torch.Generator().manual_seed(0)
    points = spread * torch.randn(lanes, count, width, generator=generator, dtype=torch.float64)
    members = torch.eye(ways, dtype=torch.float64)[torch.arange(count) % ways].expand(lanes, -1, -1)
    weights = torch.ones(lanes, count, dtype=torch.float64)
    return Problem(points, members, weights, torch.ones(lanes, ways, dtype=torch.bool), torch.zeros(lanes, width))


def test_shorter_steps_where_the_full_one_diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem(1, ways=12, count=36, width=60, spread=2.0)
    kernel = problem.kernel()
    objectives = [newton_objective(problem, dual, kernel @ dual).item() for dual in iterate_newton(problem, kernel, 25)]
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(objectives))
    assert objectives[-2] - objectives[-1] < 1e-9 * objectives[-1]
    monkeypatch.setattr(logistic, "STEP_LENGTHS", (1.0,))
    plain = [newton_objective(problem, dual, kernel @ dual).item() for dual in iterate_newton(problem, kernel, 4)]
    assert any(after > 2 * before for before, after in pairwise(plain))


@pytest.mark.parametrize(
    ("overshoot", "length"), [(1, 1.0), (3, 0.5), (6, 0.25), (12, 0.125), (24, 0.0625), (-1, 0.0625), (float("nan"), 0.0625)]
)
def test_each_lane_takes_the_longest_step_that_does_not_raise_its_objective_or_the_shortest(overshoot: float, length: float) -> None:
    problem = make_problem(3, ways=3, count=6, width=4, spread=1.0)
    kernel = problem.kernel()
    start, towards = iterate_newton(problem, kernel, 1)
    factors = torch.tensor([1.0, overshoot, 3.0])[:, None, None]
    lengths = logistic._step_length(problem, kernel, start, start + factors * (towards - start))
    assert lengths.flatten().tolist() == [1.0, length, 0.5]


def test_lanes_in_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem(5, ways=3, count=6, width=4, spread=1.0)
    at_once = iterate_newton(problem, problem.kernel(), 3)[-1]
    monkeypatch.setattr(logistic, "_MAX_BLOCK", 2 * 3 * 36)
    torch.testing.assert_close(iterate_newton(problem, problem.kernel(), 3)[-1], at_once, rtol=1e-12, atol=1e-12)


def test_the_curve_is_the_balanced_loss_before_and_after_each_step() -> None:
    learner = build("logistic")
    params, (support, queries) = make_params(learner), make_classes()
    adaptation = learner.adapt(params, stack_supports([make_classes((5, 5))[0], support]), steps=2)
    assert adaptation.loss.shape == adaptation.accuracy.shape == (2, 3)
    torch.testing.assert_close(adaptation.loss[:, 0].exp(), torch.tensor([2.0, 4.0], dtype=torch.float64))  # no class is likelier yet
    seen = see(learner, params, support, queries)
    weight = torch.zeros(4, 5, dtype=torch.float64)
    for step in (1, 2):
        weight = step_densely(seen, penalty_of(params), weight)
        losses = F.cross_entropy(torch.from_numpy(seen.points) @ weight.T, support.targets[0], reduction="none")
        torch.testing.assert_close(adaptation.loss[1, step], torch.stack([losses[support.targets[0] == c].mean() for c in range(4)]).mean())


def test_no_steps_leave_every_class_equally_likely() -> None:
    learner = build("logistic")
    params, (support, queries) = make_params(learner), make_classes()
    logits = learner.predict(params, learner.adapt(params, support, steps=0).state, queries)
    assert logits.eq(0).all()


def test_fewer_than_one_newton_step_is_refused() -> None:
    with pytest.raises(InvalidOptions, match="logistic needs newton_steps >= 1, got 0"):
        build("logistic", newton_steps=0)


def test_the_golden_episode() -> None:
    """Regenerate by printing `logits`; each query lies at its own class's place."""
    learner = build("logistic")
    params, (support, queries) = make_params(learner, seed=11), make_classes(noise=0.2)
    logits = learner.predict(params, learner.adapt(params, support).state, queries)[0]
    torch.testing.assert_close(logits, torch.tensor(GOLDEN, dtype=torch.float64), rtol=1e-7, atol=1e-7)


GOLDEN = [
    [12.0755913437, -5.72656339193, -7.75479237455, 1.40576442277],
    [-8.27985206723, 10.4831309921, -5.17029002428, 2.96701109943],
    [-5.45471537682, 0.789761034971, 12.7491614803, -8.08420713842],
    [-2.21853941274, 3.27298232534, -11.3017662607, 10.2473233481],
]
