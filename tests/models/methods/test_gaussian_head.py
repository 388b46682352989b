"""The solved heads with a Gaussian kernel against scikit-learn, which gets the kernel, or its Cholesky factor as points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import Tensor

from models.errors import InvalidOptions
from models.methods.head_space import Gaussian
from models.methods.solved_head import SolvedHead
from models.support import Params, Support, make_support, stack_supports
from tests.models.methods.tiny_heads import (
    METHODS,
    Array,
    build,
    check_float32,
    check_outer_gradient,
    make_classes,
    make_params,
    penalty_of,
    sharpness_of,
)

every_method = pytest.mark.parametrize("method", METHODS)


@dataclass(frozen=True)
class Seen:
    """What scikit-learn gets: the kernel of the support set and of queries with it, targets (n,), and each example's weight (n,)."""

    kernel: Array
    queries: Array
    targets: Array
    weights: Array

    @property
    def codes(self) -> Array:
        ways = len(set(self.targets.tolist()))
        codes: Array = np.eye(ways)[self.targets] - 1 / ways
        return codes

    @property
    def points(self) -> Array:
        """Points with these inner products."""
        return np.asarray(np.linalg.cholesky(self.kernel), dtype=np.float64)


def see(learner: SolvedHead, params: Params, support: Support, queries: Tensor) -> Seen:
    """The kernels of one task, pair by pair."""
    with torch.no_grad():
        features, asked = (learner.embed(params, inputs)[0].numpy() for inputs in (support.inputs, queries))
    targets = support.targets[0].numpy()
    counts, ways = np.bincount(targets), len(np.bincount(targets))
    pairs = [(i, j) for i in range(len(targets)) for j in range(len(targets)) if i != j]
    odds = np.array([1 / counts[targets[i]] / counts[targets[j]] for i, j in pairs])
    squares = np.array([np.square(features[i] - features[j]).sum() for i, j in pairs])
    scale = np.exp(params["head.log_width"].item()) * (odds * squares).sum() / odds.sum()

    def compare(rows: Array) -> Array:
        return np.array([[np.exp(-np.square(row - other).sum() / scale) for other in features] for row in rows])

    weights = np.array([len(targets) / ways / counts[target] for target in targets])
    return Seen(compare(features), compare(asked), targets, weights)


def answer(learner: SolvedHead, params: Params, support: Support, queries: Tensor) -> Array:
    """Scores (n_query, ways) before they are sharpened."""
    logits = learner.predict(params, learner.adapt(params, support).state, queries)[0]
    scores: Array = logits.numpy() / sharpness_of(params)
    return scores


def build_gaussian(method: str, width: int = 5, **options: Any) -> SolvedHead:
    return build(method, width, kernel="gaussian", **options)


def test_ridge_equals_scikit_learns_kernel_ridge() -> None:
    learner = build_gaussian("ridge")
    params, (support, queries) = make_params(learner), make_classes()
    seen = see(learner, params, support, queries)
    reference = KernelRidge(alpha=penalty_of(params), kernel="precomputed").fit(seen.kernel, seen.codes, sample_weight=seen.weights)
    state = learner.adapt(params, support).state
    np.testing.assert_allclose(state["pair.dual"][0].numpy(), reference.dual_coef_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(answer(learner, params, support, queries), reference.predict(seen.queries), rtol=1e-8, atol=1e-10)


def test_logistic_equals_scikit_learns_on_points_with_this_kernel() -> None:
    learner = build_gaussian("logistic", newton_steps=12)
    params, (support, queries) = make_params(learner), make_classes()
    seen = see(learner, params, support, queries)
    reference = LogisticRegression(C=1 / penalty_of(params), fit_intercept=False, class_weight="balanced", tol=1e-10, max_iter=10_000)
    reference.fit(seen.points, seen.targets)
    np.testing.assert_allclose(answer(learner, params, support, support.inputs), seen.points @ reference.coef_.T, rtol=1e-5, atol=1e-6)


def test_svm_equals_scikit_learns_crammer_singer_on_points_with_this_kernel() -> None:
    learner = build_gaussian("svm")
    params, (support, queries) = make_params(learner), make_classes((5, 5, 5, 5), noise=2.0)
    params["head.log_smoothing"] = torch.tensor(-30.0, dtype=torch.float64)
    params["head.log_c"] = torch.tensor(0.0, dtype=torch.float64)
    seen = see(learner, params, support, queries)
    reference = LinearSVC(C=1.0, multi_class="crammer_singer", loss="hinge", fit_intercept=False, tol=1e-9, max_iter=1_000_000)
    reference.fit(seen.points, seen.targets)
    np.testing.assert_allclose(answer(learner, params, support, support.inputs), seen.points @ reference.coef_.T, rtol=1e-4, atol=1e-5)


@every_method
def test_the_outer_gradient_equals_finite_differences_in_every_meta_parameter(method: str) -> None:
    learner = build_gaussian(method, width=4)
    params = make_params(learner, seed=2)
    params["head.log_sharpness"] = torch.tensor(1.0, dtype=torch.float64)  # or the loss is too steep for differences
    check_outer_gradient(learner, params)


@every_method
def test_float32_is_answered_as_float64(method: str) -> None:
    check_float32(build_gaussian(method))


@every_method
def test_a_state_keeps_each_example_and_what_it_says_of_each_class(method: str) -> None:
    learner = build_gaussian(method)
    params, (support, _) = make_params(learner), make_classes()
    shapes = {name: tuple(tensor.shape) for name, tensor in learner.adapt(params, support).state.items()}
    masks = {"example.mask": (1, 7), "class.mask": (1, 4)}
    assert shapes == {"example.point": (1, 7, 5), "pair.dual": (1, 7, 4), "scale": (1, 1), **masks}


@every_method
def test_an_explanation_is_coefficient_times_kernel(method: str) -> None:
    learner = build_gaussian(method)
    params, (support, queries) = make_params(learner), make_classes()
    both = stack_supports([support, make_classes((4, 4, 4, 4, 1), seed=5)[0]])
    state = learner.adapt(params, support).state
    seen = see(learner, params, support, queries)
    predicted = answer(learner, params, support, queries).argmax(1)
    spoken = seen.queries * state["pair.dual"][0].numpy()[:, predicted].T
    np.testing.assert_allclose(spoken.sum(1), answer(learner, params, support, queries).max(1), rtol=1e-8)
    expected = spoken / np.abs(spoken).sum(1, keepdims=True)
    shares = learner.explain(params, learner.adapt(params, both).state, both, queries.expand(2, -1, -1))[0]
    np.testing.assert_allclose(shares[:, :7].numpy(), expected, rtol=1e-6, atol=1e-9)
    assert shares[:, 7:].eq(0).all()


class TestScale:
    def test_neither_where_the_features_lie_nor_their_unit_changes_the_kernel(self) -> None:
        space, generator = Gaussian(1.0), torch.Generator().manual_seed(0)
        support, _ = make_classes()
        features = torch.randn(1, 7, 4, generator=generator, dtype=torch.float64)
        kernel = space.pose(space.init(), features, support).kernel()
        assert 0 < kernel.amin() < 0.5
        torch.testing.assert_close(space.pose(space.init(), 1e3 * (features + 2), support).kernel(), kernel, rtol=1e-9, atol=1e-9)

    @every_method
    @pytest.mark.parametrize("value", [0.0, 3.0])
    def test_equal_examples_say_nothing_and_harm_nothing(self, method: str, value: float) -> None:
        learner = build_gaussian(method)
        params = {name: tensor.float() for name, tensor in make_params(learner).items()}
        support = make_support(torch.full((4, 3), value), torch.tensor([0, 1, 0, 1]), 2)
        state = learner.adapt(params, support).state
        assert all(tensor.isfinite().all() for tensor in state.values())
        answers = learner.predict(params, state, torch.tensor([[[value] * 3, [5.0, -5.0, 1.0]]])).softmax(2)
        torch.testing.assert_close(answers, torch.full((1, 2, 2), 0.5), rtol=0, atol=1e-5)

    def test_features_of_zeros_are_finite(self) -> None:
        space, (support, _) = Gaussian(1.0), make_classes()
        problem = space.pose(space.init(), torch.zeros(1, 7, 4), support)
        assert problem.kernel().eq(1).all()
        assert problem.frame.gt(0).all()


def test_a_gaussian_kernel_for_values_is_refused() -> None:
    with pytest.raises(InvalidOptions, match="ridge solves regression with kernel 'linear' only, got 'gaussian'"):
        build("ridge", kind="regression", kernel="gaussian")


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(InvalidOptions, match=r"kernel must be one of \['linear', 'gaussian'\], got 'cubic'"):
        build("svm", kernel="cubic")


@every_method
def test_the_golden_episode(method: str) -> None:
    """Regenerate by printing `logits`; each query lies at its own class's place."""
    learner = build_gaussian(method)
    params, (support, queries) = make_params(learner, seed=11), make_classes(noise=0.2)
    logits = learner.predict(params, learner.adapt(params, support).state, queries)[0]
    torch.testing.assert_close(logits, torch.tensor(GOLDEN[method], dtype=torch.float64), rtol=1e-7, atol=1e-7)


GOLDEN = {
    "logistic": [
        [25.9924816114, -9.62744727394, -13.3802510867, -2.98478325083],
        [-14.2700470673, 24.3807180771, -15.9750540214, 5.8643830117],
        [-9.82435499127, -9.19636419418, 28.9611166144, -9.94039742899],
        [-12.1134654062, 4.95471281231, -16.7660003192, 23.9247529131],
    ],
    "ridge": [
        [15.9313262912, -6.20476212714, -6.98663060067, -2.73993356336],
        [-7.05418885236, 13.2502076133, -7.14613961558, 0.950120854691],
        [-5.8949195575, -5.61136193292, 17.4977903934, -5.991508903],
        [-6.03306486079, 0.520424827281, -7.45782804353, 12.970468077],
    ],
    "svm": [
        [21.7562523147, -8.3073856067, -9.74540536257, -3.70346134545],
        [-9.84619435679, 17.7530030888, -10.1291685484, 2.22235981638],
        [-8.09592011748, -7.70257945987, 24.0084766005, -8.20997702317],
        [-8.34979850633, 1.61526250281, -10.5987868407, 17.3333228442],
    ],
}
