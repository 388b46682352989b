"""The SVM and its solver against scikit-learn, a general-purpose solver, the optimality conditions and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.svm import LinearSVC
from torch import Tensor

from models.methods.crammer_singer import duality_gap, project_on_simplex, solve_crammer_singer
from tests.models.methods.tiny_heads import build, make_classes, make_params, see

Quadratic = tuple[Tensor, Tensor, Tensor, Tensor]


def make_program(lanes: int = 1, ways: int = 3, count: int = 6, width: int = 8, smoothing: float = 0.0, seed: int = 0) -> Quadratic:
    """Random overlapping classes: hessian, members, bounds (the last example is padding) and class_mask (lane 1 lacks the last class)."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(lanes, count, width, generator=generator, dtype=torch.float64) / width**0.5
    targets = torch.arange(count) % (ways - 1 if lanes > 1 else ways)
    members = torch.eye(ways, dtype=torch.float64)[targets].expand(lanes, -1, -1)
    bounds = 0.5 + torch.rand(lanes, count, generator=generator, dtype=torch.float64)
    class_mask = torch.ones(lanes, ways, dtype=torch.bool)
    if lanes > 1:
        bounds[:, -1], class_mask[1, -1] = 0, False
    return points @ points.mT + smoothing * torch.eye(count, dtype=torch.float64), members, bounds, class_mask


def test_weights_equal_scikit_learns_crammer_singer() -> None:
    learner = build("svm")
    params, (support, queries) = make_params(learner), make_classes((5, 5, 5, 5), noise=2.0)
    params["head.log_smoothing"] = torch.tensor(-30.0, dtype=torch.float64)
    params["head.log_c"] = torch.tensor(2.0, dtype=torch.float64)
    state = learner.adapt(params, support).state
    seen = see(learner, params, support, queries)
    c = float(params["head.log_c"].exp())
    reference = LinearSVC(C=c, multi_class="crammer_singer", loss="hinge", fit_intercept=False, tol=1e-9, max_iter=1_000_000)
    reference.fit(seen.points, seen.targets)
    np.testing.assert_allclose(state["class.weight"][0].numpy(), reference.coef_, rtol=1e-4, atol=1e-5)
    [dual] = learner.solve(params, learner.space.pose(params, learner.embed(params, support.inputs), support), 0)
    own = dual[0].gather(1, support.targets[0].unsqueeze(1)) / c
    kinds = [own < 1e-6, (own > 1e-3) & (own < 1 - 1e-3), own > 1 - 1e-6]
    assert all(kind.any() for kind in kinds), "examples without a say, with one, and at C: or much less is compared than it seems"


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_the_solution_is_a_general_purpose_solvers(smoothing: float) -> None:
    hessian, members, bounds, class_mask = make_program(smoothing=smoothing)
    dual = solve_crammer_singer(hessian, members, bounds, class_mask, tolerance=0.0)[0].numpy()
    h, y = hessian[0].numpy(), members[0].numpy()
    found = minimize(
        lambda a: np.trace(a.reshape(6, 3).T @ h @ a.reshape(6, 3)) / 2 - (a.reshape(6, 3) * y).sum(),
        np.zeros(18),
        jac=lambda a: (h @ a.reshape(6, 3) - y).ravel(),
        method="SLSQP",
        bounds=[(None, u) for u in (bounds[0].numpy()[:, None] * y).ravel()],
        constraints={"type": "eq", "fun": lambda a: a.reshape(6, 3).sum(1), "jac": lambda a: np.kron(np.eye(6), np.ones((1, 3)))},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success
    np.testing.assert_allclose(dual, found.x.reshape(6, 3), atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_the_optimality_conditions_hold(smoothing: float) -> None:
    hessian, members, bounds, class_mask = make_program(lanes=2, ways=4, count=9, smoothing=smoothing)
    dual = solve_crammer_singer(hessian, members, bounds, class_mask, tolerance=0.0)
    slack, slope = bounds.unsqueeze(2) * members - dual, hessian @ dual - members
    assert (slack >= 0).all()
    torch.testing.assert_close(dual.sum(2), torch.zeros(2, 9, dtype=torch.float64), rtol=0, atol=1e-12)
    highest = slope.masked_fill(~class_mask.unsqueeze(1), -torch.inf).amax(2, keepdim=True)
    assert (slack * (highest - slope)).where(class_mask.unsqueeze(1), 0).abs().max() < 1e-8
    assert dual[1, :, -1].eq(0).all()  # the absent class
    assert dual[:, -1].eq(0).all()  # the padded example
    assert duality_gap(hessian, members, bounds, class_mask, dual).abs().max() < 1e-10


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_twenty_classes_of_five_examples_converge(c: float) -> None:
    """Rather more overlap than with any embedding: the points are noise."""
    hessian, members, bounds, class_mask = make_program(ways=20, count=100, width=256, smoothing=1.0)
    bounds = torch.full_like(bounds, c)
    gap = duality_gap(hessian, members, bounds, class_mask, solve_crammer_singer(hessian, members, bounds, class_mask))
    assert gap.item() > -1e-9
    assert gap.item() / (100 * c) < 1e-6


def test_a_projection_is_the_nearest_point_of_the_simplex() -> None:
    generator = torch.Generator().manual_seed(0)
    points, size = torch.randn(50, 4, generator=generator, dtype=torch.float64), torch.rand(50, generator=generator, dtype=torch.float64)
    nearest = project_on_simplex(points, size)
    torch.testing.assert_close(nearest.sum(1), size)
    assert (nearest >= 0).all()
    corners = size[:, None, None] * torch.eye(4, dtype=torch.float64)  # nothing of the simplex lies further towards the point
    assert ((corners - nearest.unsqueeze(1)) * (points - nearest).unsqueeze(1)).sum(2).max() < 1e-12
    absent = points.clone()
    absent[:, 2] = -torch.inf
    torch.testing.assert_close(project_on_simplex(absent, size)[:, [0, 1, 3]], project_on_simplex(points[:, [0, 1, 3]], size))
    assert project_on_simplex(absent, size)[:, 2].eq(0).all()
    assert project_on_simplex(absent, torch.zeros_like(size)).eq(0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_derivative_of_the_solution_equals_finite_differences(smoothing: float) -> None:
    hessian, members, bounds, class_mask = make_program(count=5, smoothing=smoothing, seed=1)
    dual = solve_crammer_singer(hessian, members, bounds, class_mask, tolerance=0.0)
    slack = bounds.unsqueeze(2) * members - dual
    assert (slack[members > 0] == 0).any(), "a coefficient at C is needed, or the gradient in C is zero"
    assert (slack[members > 0] > 0).any(), "and one between the bounds"

    def solve(hessian: Tensor, bounds: Tensor) -> Tensor:
        symmetric = (hessian + hessian.mT) / 2
        return solve_crammer_singer(symmetric, members, bounds, class_mask, max_iterations=250, tolerance=0.0)

    assert torch.autograd.gradcheck(solve, (hessian.requires_grad_(), bounds.requires_grad_()), eps=1e-6, atol=1e-6)


def test_lanes_do_not_know_each_other() -> None:
    easy, hard = make_program(smoothing=3.0), make_program(seed=2)
    both = [torch.cat(pair) for pair in zip(easy, hard, strict=True)]
    together = solve_crammer_singer(*both)  # type: ignore[arg-type]
    torch.testing.assert_close(together[:1], solve_crammer_singer(*easy), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together[1:], solve_crammer_singer(*hard), rtol=1e-12, atol=1e-12)


def test_few_examples_carry_the_answer() -> None:
    """With a smoothing of little, examples far inside their class have no coefficient, as a support vector machine's should."""
    learner = build("svm", width=12)
    params, (support, queries) = make_params(learner), make_classes((12, 12, 12), noise=1.0)
    params["head.log_smoothing"] = torch.tensor(-6.0, dtype=torch.float64)
    shares = learner.explain(params, learner.adapt(params, support).state, support, queries)[0]
    silent = (shares == 0).all(0)
    assert 0 < silent.sum() < 36


def test_the_golden_episode() -> None:
    """Regenerate by printing `logits`; each query lies at its own class's place."""
    learner = build("svm")
    params, (support, queries) = make_params(learner, seed=11), make_classes(noise=0.2)
    logits = learner.predict(params, learner.adapt(params, support).state, queries)[0]
    torch.testing.assert_close(logits, torch.tensor(GOLDEN, dtype=torch.float64), rtol=1e-7, atol=1e-7)


GOLDEN = [
    [12.512382737, -5.17261791838, -7.83406328054, 0.49429846196],
    [-7.89483277208, 10.4271617791, -4.98392410164, 2.45159509463],
    [-5.82052890572, 0.378516550753, 12.5827096665, -7.14069731153],
    [-2.07542885915, 3.35477974576, -10.971519471, 9.69216858439],
]
