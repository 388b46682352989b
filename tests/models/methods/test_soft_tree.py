"""Soft trees against walks down every path in loops, and leaves against scikit-learn and counted frequencies."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from torch import Tensor

from models.errors import InvalidOptions
from models.methods import build_learner
from models.methods.tree import Tree
from models.support import Params, Support, stack_supports
from tests.models.methods.tiny_tasks import golden_outputs, is_gradient_of_differences, make_task

SPEC = {
    "method": "tree",
    "kind": "classification",
    "input_shape": [3],
    "n_trees": 3,
    "depth": 2,
    "backbone": {"kind": "mlp", "hidden": [6, 4]},
}
FREQUENCY = {**SPEC, "leaves": "frequency"}
BOTH = pytest.mark.parametrize("spec", [SPEC, FREQUENCY], ids=["ridge", "frequency"])


def build(spec: dict[str, Any] = SPEC, seed: int = 0) -> tuple[Tree, Params]:
    """A learner with float64 parameters none of which is at a neutral start."""
    learner = build_learner(spec)
    assert isinstance(learner, Tree)
    generator = torch.Generator().manual_seed(seed)
    fresh = learner.init(generator)
    return learner, {n: t.double() + 0.2 * torch.randn(t.shape, generator=generator, dtype=torch.float64) for n, t in fresh.items()}


def place_by_hand(learner: Tree, params: Params, support: Support, inputs: Tensor) -> Tensor:
    """Directions (n, d) from the task's centre: the mean of the class means and of a meta-learned centre of some weight."""
    features, targets = learner.embed(params, support.inputs)[0], support.targets[0]
    means = torch.stack([features[targets == c].mean(0) for c in range(support.max_way)])
    prior = params["head.log_centre_weight"].exp()
    centre = (means.sum(0) + prior * params["head.centre"]) / (len(means) + prior)
    return F.normalize(learner.embed(params, inputs[None])[0] - centre, dim=1)


def leaves_by_hand(learner: Tree, params: Params, point: Tensor) -> Tensor:
    """Probability of every leaf of every tree, (n_trees, 2^depth): the product of the answers on its way."""
    rows = []
    for tree in range(learner.n_trees):
        asked = params["tree.hyperplane"][tree] @ point - params["tree.threshold"][tree]
        yes = torch.sigmoid(asked * params["tree.log_steepness"][tree].exp())
        ways = product([False, True], repeat=learner.depth)
        rows.append(torch.stack([torch.stack([y if goes else 1 - y for y, goes in zip(yes, way, strict=True)]).prod() for way in ways]))
    return torch.stack(rows)


def reach_by_hand(learner: Tree, params: Params, support: Support, inputs: Tensor) -> Tensor:
    """(n, n_trees, 2^depth)"""
    return torch.stack([leaves_by_hand(learner, params, point) for point in place_by_hand(learner, params, support, inputs)])


def test_the_leaves_of_a_tree_share_out_every_example() -> None:
    learner, params = build()
    support, queries, _ = make_task(learner, (1, 3, 2), seed=1)
    reached = reach_by_hand(learner, params, support, queries)
    torch.testing.assert_close(reached.sum(2), torch.ones(3, 3, dtype=torch.float64))
    assert reached.min() > 0


def test_ridge_leaves_are_scikit_learns_ridge_regression_on_all_trees_together() -> None:
    learner, params = build()
    support, queries, _ = make_task(learner, (1, 3, 2), seed=1)
    targets = support.targets[0]
    design = reach_by_hand(learner, params, support, support.inputs[0]).flatten(1) / learner.n_trees**0.5
    weights = 2 / targets.bincount()[targets].double()  # six examples, shared evenly by three classes
    reference = Ridge(alpha=params["leaf.log_penalty"].exp().item(), fit_intercept=False)
    reference.fit(design.numpy(), (F.one_hot(targets, 3).double() - 1 / 3).numpy(), sample_weight=weights.numpy())
    asked = reach_by_hand(learner, params, support, queries).flatten(1) / learner.n_trees**0.5
    expected = torch.from_numpy(reference.predict(asked.numpy())) * params["head.log_sharpness"].exp()
    logits = learner.predict(params, learner.adapt(params, support).state, queries[None])[0]
    torch.testing.assert_close(logits, expected, rtol=1e-8, atol=1e-8)


def test_frequency_leaves_count_what_reaches_them_and_the_answer_is_the_mean_of_the_trees() -> None:
    learner, params = build(FREQUENCY)
    support, queries, _ = make_task(learner, (1, 3, 2), seed=1)
    targets, reached = support.targets[0], reach_by_hand(learner, params, support, support.inputs[0])
    smoothing = params["leaf.log_penalty"].exp()
    answers = torch.zeros(3, 3, dtype=torch.float64)
    for query, arrives in enumerate(reach_by_hand(learner, params, support, queries)):
        for tree in range(learner.n_trees):
            for leaf in range(2**learner.depth):
                counts = torch.stack([reached[targets == c, tree, leaf].mean() for c in range(3)])
                answers[query] += arrives[tree, leaf] * (counts + smoothing / 3) / (counts.sum() + smoothing) / learner.n_trees
    torch.testing.assert_close(answers.sum(1), torch.ones(3, dtype=torch.float64))
    logits = learner.predict(params, learner.adapt(params, support).state, queries[None])[0]
    torch.testing.assert_close(logits, answers.log() * params["head.log_sharpness"].exp(), rtol=1e-9, atol=1e-9)


@BOTH
def test_the_meta_gradient_is_the_one_of_finite_differences(spec: dict[str, Any]) -> None:
    learner, params = build(spec, seed=4)
    params = {name: tensor.requires_grad_() for name, tensor in params.items()}
    assert is_gradient_of_differences(learner, params, make_task(learner, (1, 2, 1), seed=4))


def test_ridge_explanations_are_dual_coefficients_times_how_often_two_examples_meet() -> None:
    learner, params = build()
    support, queries, _ = make_task(learner, (1, 3, 2), seed=2)
    state, targets = learner.adapt(params, support).state, support.targets[0]
    design = reach_by_hand(learner, params, support, support.inputs[0]).flatten(1)
    asked = reach_by_hand(learner, params, support, queries).flatten(1)
    meetings, kernel = (rows @ design.T / learner.n_trees for rows in (asked, design))
    weights = 2 / targets.bincount()[targets].double()
    penalty = params["leaf.log_penalty"].exp() * torch.diag(1 / weights)
    dual = torch.linalg.solve(kernel + penalty, F.one_hot(targets, 3).double() - 1 / 3)  # (n_support, ways)
    parts = meetings * dual[:, (meetings @ dual).argmax(1)].T
    expected = parts / parts.abs().sum(1, keepdim=True)
    torch.testing.assert_close(learner.explain(params, state, support, queries[None])[0], expected, rtol=1e-7, atol=1e-9)


def test_frequency_explanations_are_the_probabilities_that_examples_bring() -> None:
    learner, params = build(FREQUENCY)
    params["leaf.log_penalty"] = torch.tensor(-40.0, dtype=torch.float64)  # no smoothing
    params["head.log_sharpness"] = torch.zeros((), dtype=torch.float64)
    support, queries, _ = make_task(learner, (1, 3, 2), seed=2)
    state = learner.adapt(params, support).state
    weights = learner.explain(params, state, support, queries[None])[0]
    probabilities = learner.predict(params, state, queries[None]).exp()[0]
    for row, answer in zip(weights, probabilities, strict=True):
        brought = torch.stack([row[support.targets[0] == c].sum() for c in range(3)])
        signs = torch.where(torch.arange(3) == answer.argmax(), 1.0, -1.0).double()
        torch.testing.assert_close(brought, answer * signs, rtol=1e-9, atol=1e-9)


@BOTH
def test_explanations_are_shares_and_padding_has_none(spec: dict[str, Any]) -> None:
    learner, params = build(spec)
    support = stack_supports([make_task(learner, shots, seed=6)[0] for shots in ((2, 1, 4), (1, 1))])
    queries = torch.rand(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    weights = learner.explain(params, learner.adapt(params, support).state, support, queries)
    torch.testing.assert_close(weights.abs().sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert (weights[1, :, 2:] == 0).all()


@BOTH
def test_adapting_without_training_keeps_no_graph(spec: dict[str, Any]) -> None:
    learner, params = build(spec)
    params = {name: tensor.requires_grad_() for name, tensor in params.items()}
    adaptation = learner.adapt(params, make_task(learner, (1, 1), seed=0)[0])
    assert not any(tensor.requires_grad for tensor in (*adaptation.state.values(), adaptation.loss))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "oak"}, r"tree variant must be one of \['soft', 'cart'\], got 'oak'"),
        ({"leaves": "mean"}, r"tree leaves must be one of \['ridge', 'frequency'\], got 'mean'"),
        ({"asks": "why"}, r"tree asks must be one of \['margin', 'distance', 'feature'\], got 'why'"),
        ({"n_trees": 0}, r"tree needs n_trees >= 1 and depth in \[1, 10\], got 0 and 2"),
        ({"depth": 11}, r"tree needs n_trees >= 1 and depth in \[1, 10\], got 3 and 11"),
        ({"depths": []}, r"tree depths must list whole numbers of at least 1, each once; got \[\]"),
        ({"min_leaves": [1, 0]}, r"tree min_leaves must list whole numbers of at least 1, each once; got \[1, 0\]"),
        ({"kind": "regression"}, "tree does classification only"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptions, match=words):
        build_learner({**SPEC, **options})


# Printed by golden_outputs(*build(SPEC, seed=5)).tolist(), and by that of FREQUENCY; print them again when a formula changes by intent.
GOLDEN = {
    "ridge": [
        [15.82367296368654, -2.22563312616399, -13.59803983752255],
        [-12.09492176450923, 1.2151062139326807, 10.879815550576547],
        [-13.663355323866535, 2.0746560295571164, 11.588699294309412],
    ],
    "frequency": [
        [-21.84625455863275, -39.5334697918958, -58.696329045518446],
        [-55.459066531096155, -34.88965664654121, -26.18054297483353],
        [-57.87394377902201, -34.5061798839225, -25.513669868715635],
    ],
}


@BOTH
def test_golden_outputs(spec: dict[str, Any]) -> None:
    expected = torch.tensor(GOLDEN[spec.get("leaves", "ridge")], dtype=torch.float64)
    torch.testing.assert_close(golden_outputs(*build(spec, seed=5)), expected, rtol=1e-8, atol=1e-8)
