"""Ridge regression against scikit-learn and against the normal equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Reference

from models.errors import InvalidOptions
from models.methods.ridge import solve_ridge
from models.support import Support, make_support, stack_supports
from tests.models.methods.tiny_heads import build, make_classes, make_params, penalty_of, see, sharpness_of


@pytest.mark.parametrize("width", [3, 7, 30], ids=["primal", "square", "dual"])
def test_weights_equal_scikit_learns_with_balanced_classes(width: int) -> None:
    learner = build("ridge", width)
    params, (support, queries) = make_params(learner), make_classes()
    state = learner.adapt(params, support).state
    seen = see(learner, params, support, queries)
    codes = np.eye(4)[seen.targets] - 1 / 4
    reference = Reference(alpha=penalty_of(params), fit_intercept=False).fit(seen.points, codes, sample_weight=seen.weights)
    np.testing.assert_allclose(state["class.weight"][0].numpy(), reference.coef_, rtol=1e-8, atol=1e-10)
    logits = learner.predict(params, state, queries)[0]
    np.testing.assert_allclose(logits.numpy(), sharpness_of(params) * reference.predict(seen.queries), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("count", "width"), [(4, 9), (9, 4)], ids=["dual", "primal"])
@pytest.mark.parametrize("penalty", [1e-3, 1.0, 100.0])
def test_both_forms_solve_the_normal_equations(count: int, width: int, penalty: float) -> None:
    generator = torch.Generator().manual_seed(0)
    points, targets = (torch.randn(2, count, size, generator=generator, dtype=torch.float64) for size in (width, 3))
    weights = torch.rand(2, count, generator=generator, dtype=torch.float64)
    weights[1, -1] = 0  # padding, whatever its point is
    dual = solve_ridge(points, targets, weights, torch.tensor(penalty, dtype=torch.float64))
    for lane in (0, 1):
        p, t, w = points[lane].numpy(), targets[lane].numpy(), weights[lane].numpy()
        expected = np.linalg.solve(p.T @ (w[:, None] * p) + penalty * np.eye(width), p.T @ (w[:, None] * t))
        np.testing.assert_allclose(p.T @ dual[lane].numpy(), expected, rtol=1e-8, atol=1e-11)
    assert dual[1, -1].eq(0).all()


def test_what_an_example_says_is_its_residual_times_the_kernel() -> None:
    """At the optimum an example's dual coefficient is its weighted residual over the penalty."""
    learner = build("ridge")
    params, (support, queries) = make_params(learner), make_classes()
    state = learner.adapt(params, support).state
    seen = see(learner, params, support, queries)
    codes = np.eye(4)[seen.targets] - 1 / 4
    fit = Reference(alpha=penalty_of(params), fit_intercept=False).fit(seen.points, codes, sample_weight=seen.weights)
    coefficients = seen.weights[:, None] * (codes - fit.predict(seen.points)) / penalty_of(params)
    spoken = (seen.queries @ seen.points.T) * coefficients[:, fit.predict(seen.queries).argmax(1)].T
    expected = spoken / np.abs(spoken).sum(1, keepdims=True)
    np.testing.assert_allclose(learner.explain(params, state, support, queries)[0].numpy(), expected, rtol=1e-7, atol=1e-9)


def make_curve(count: int, generator: torch.Generator) -> Support:
    """A regression task of random points."""
    inputs, targets = (torch.randn(count, size, generator=generator, dtype=torch.float64) for size in (3, 1))
    return make_support(inputs, targets)


class TestRegression:
    @pytest.mark.parametrize("count", [3, 20])
    def test_a_task_moves_the_prior_by_ridge_regression_on_what_it_leaves(self, count: int) -> None:
        learner = build("ridge", width=6, kind="regression", n_out=2)
        params, generator = make_params(learner), torch.Generator().manual_seed(4)
        inputs, targets, queries = (
            torch.randn(n, d, generator=generator, dtype=torch.float64) for n, d in ((count, 3), (count, 2), (5, 3))
        )
        state = learner.adapt(params, make_support(inputs, targets)).state
        features, asked = (
            np.pad(learner.embed(params, x[None])[0].numpy(), ((0, 0), (0, 1)), constant_values=1) for x in (inputs, queries)
        )
        prior = np.concatenate([params["head.weight"].numpy(), params["head.bias"].numpy()[:, None]], axis=1)
        fit = Reference(alpha=penalty_of(params), fit_intercept=False).fit(features, targets.numpy() - features @ prior.T)
        answers = learner.predict(params, state, queries[None])[0].numpy()
        np.testing.assert_allclose(answers, asked @ prior.T + fit.predict(asked), rtol=1e-8, atol=1e-9)

    def test_padding_changes_nothing_and_an_answer_is_the_prior_plus_what_the_examples_say(self) -> None:
        learner = build("ridge", kind="regression")
        params, generator = make_params(learner), torch.Generator().manual_seed(4)
        tasks = [make_curve(n, generator) for n in (4, 9)]
        queries = torch.randn(1, 6, 3, generator=generator, dtype=torch.float64)
        both, alone = stack_supports(tasks), learner.adapt(params, tasks[0]).state
        torch.testing.assert_close(learner.adapt(params, both).state["head.weight"][:1], alone["head.weight"], rtol=1e-9, atol=1e-12)
        shares = learner.explain(params, learner.adapt(params, both).state, both, queries.expand(2, -1, -1))[0]
        assert shares[:, 4:].eq(0).all()
        prior = learner.embed(params, queries)[0] @ params["head.weight"].T + params["head.bias"]
        changes = (learner.predict(params, alone, queries)[0] - prior)[:, 0]
        assert (changes * shares.sum(1) > 0).all()

    def test_the_outer_gradient_equals_finite_differences(self) -> None:
        learner = build("ridge", width=3, kind="regression")
        params, generator = make_params(learner), torch.Generator().manual_seed(5)
        inputs, queries, targets = (torch.randn(4, d, generator=generator, dtype=torch.float64) for d in (3, 3, 1))
        tensors = tuple(tensor.requires_grad_() for tensor in params.values())

        def outputs(*given: torch.Tensor) -> torch.Tensor:
            values = dict(zip(params, given, strict=True))
            state = learner.adapt(values, make_support(inputs, targets), differentiable=True).state
            return learner.predict(values, state, queries[None])

        assert torch.autograd.gradcheck(outputs, tensors)

    def test_the_golden_curve(self) -> None:
        """Regenerate by printing `answers`."""
        learner = build("ridge", width=6, kind="regression")
        params, generator = make_params(learner, seed=11), torch.Generator().manual_seed(12)
        support, queries = make_curve(8, generator), torch.randn(1, 3, 3, generator=generator, dtype=torch.float64)
        answers = learner.predict(params, learner.adapt(params, support).state, queries)[0, :, 0]
        torch.testing.assert_close(answers, torch.tensor(GOLDEN_CURVE, dtype=torch.float64), rtol=1e-7, atol=1e-7)

    def test_the_curve_is_the_squared_error_on_the_support_set(self) -> None:
        learner = build("ridge", kind="regression")
        generator = torch.Generator().manual_seed(6)
        support = make_curve(8, generator)
        params = make_params(learner)
        adaptation = learner.adapt(params, support)
        answers = learner.predict(params, adaptation.state, support.inputs)
        torch.testing.assert_close(adaptation.loss[0, 0], (answers - support.targets).square().mean())
        prior = learner.embed(params, support.inputs) @ params["head.weight"].T + params["head.bias"]
        assert adaptation.loss[0, 0] < (prior - support.targets).square().mean()


def test_no_outputs_are_refused() -> None:
    with pytest.raises(InvalidOptions, match="ridge needs n_out >= 1, got 0"):
        build("ridge", n_out=0)


def test_the_golden_episode() -> None:
    """Regenerate by printing `logits`; each query lies at its own class's place."""
    learner = build("ridge")
    params, (support, queries) = make_params(learner, seed=11), make_classes(noise=0.2)
    logits = learner.predict(params, learner.adapt(params, support).state, queries)[0]
    expected = torch.tensor(GOLDEN, dtype=torch.float64)
    torch.testing.assert_close(logits, expected, rtol=1e-7, atol=1e-7)


GOLDEN = [
    [12.5828448227, -5.32836251996, -7.99749335346, 0.743011050699],
    [-8.20696465433, 10.2763260761, -4.90451510239, 2.83515368059],
    [-5.79802898773, 0.39527585152, 12.6219896964, -7.21923656023],
    [-2.16293503797, 3.48815416842, -10.8953128302, 9.57009369977],
]

GOLDEN_CURVE = [-0.32447571555716975, -0.3781000050356442, -0.27927476473213747]
