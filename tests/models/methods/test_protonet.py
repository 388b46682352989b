"""Prototypical networks against the definition in the paper."""

from __future__ import annotations

import pytest
import torch

from models.learner import Explains
from models.methods import build_learner, protonet
from models.support import make_support, stack_supports
from tests.models.methods.largest_result import LargestResult
from tests.models.methods.tiny_tasks import golden_outputs, is_gradient_of_differences, make_params, make_task

SPEC = {"method": "protonet", "kind": "classification", "input_shape": [3], "backbone": {"kind": "mlp", "hidden": [8, 4]}}


def test_prototypes_are_class_means_and_logits_are_negative_squared_distances() -> None:
    learner = build_learner(SPEC)
    generator = torch.Generator().manual_seed(0)
    params = {name: tensor.double() for name, tensor in learner.init(generator).items()}
    inputs, queries = (torch.rand(count, 3, generator=generator, dtype=torch.float64) for count in (6, 4))
    targets = torch.tensor([1, 0, 1, 2, 1, 0])
    state = learner.adapt(params, make_support(inputs, targets, 3)).state

    features = learner.backbone.features(params, inputs[None])[0]  # type: ignore[attr-defined]
    means = torch.stack([features[targets == c].mean(0) for c in range(3)])
    torch.testing.assert_close(state["class.prototypes"][0], means)

    embedded = learner.backbone.features(params, queries[None])[0]  # type: ignore[attr-defined]
    logits = learner.predict(params, state, queries[None])[0]
    torch.testing.assert_close(logits, -(torch.cdist(embedded, means) ** 2), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", [3, 4])
def test_the_meta_gradient_is_the_one_of_finite_differences(seed: int) -> None:
    learner = build_learner(SPEC)
    params = {name: (tensor + 0.1).detach().requires_grad_() for name, tensor in make_params(learner, seed).items()}  # biases of zero too
    support, queries, answers = make_task(learner, (1, 2, 1), seed)
    state = learner.adapt(params, support, differentiable=True).state
    loss = learner.predict(params, state, queries.unsqueeze(0)).log_softmax(-1)[0].gather(1, answers.unsqueeze(1)).sum()
    first_layer = torch.autograd.grad(loss, params["linear1.weight"])[0]
    assert first_layer.abs().sum() > 0
    assert is_gradient_of_differences(learner, params, (support, queries, answers))


def test_adapting_without_training_keeps_no_graph() -> None:
    learner = build_learner(SPEC)
    params = {name: tensor.requires_grad_() for name, tensor in learner.init(torch.Generator().manual_seed(0)).items()}
    adaptation = learner.adapt(params, make_support(torch.rand(2, 3), torch.arange(2), 2))
    assert not any(tensor.requires_grad for tensor in adaptation.state.values())


def test_many_points_against_many_centres_take_blocks_of_memory_and_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    points, centres = torch.rand(2, 50, 16, generator=generator), torch.rand(2, 30, 16, generator=generator)
    at_once = protonet.squared_distances(points, centres)
    monkeypatch.setattr(protonet, "_MAX_DIFFERENCES", 3 * centres.numel())
    with LargestResult() as largest:
        in_blocks = protonet.squared_distances(points, centres)
    assert torch.equal(in_blocks, at_once)
    assert largest.numel <= max(3 * centres.numel(), at_once.numel())


class TestExplanations:
    """What drove an answer of prototypes."""

    def test_near_members_of_the_predicted_class_speak_for_it_and_those_of_the_runner_up_against(self) -> None:
        learner = build_learner(SPEC)
        assert isinstance(learner, Explains)
        params = {name: tensor.double() for name, tensor in learner.init(torch.Generator().manual_seed(0)).items()}
        support, queries, _ = make_task(learner, (1, 3, 2, 2), seed=1)
        state = learner.adapt(params, support).state
        weights = learner.explain(params, state, support, queries[None])[0]
        features = learner.backbone.features(params, support.inputs)[0]  # type: ignore[attr-defined]
        embedded = learner.backbone.features(params, queries[None])[0]  # type: ignore[attr-defined]
        targets, ranking = support.targets[0].tolist(), learner.predict(params, state, queries[None])[0].argsort(descending=True)
        for row, query, (best, second, *_) in zip(weights, embedded, ranking.tolist(), strict=True):
            signs = [(target == best) - (target == second) for target in targets]
            near = [1 / targets.count(target) / float((query - f).square().sum()) for target, f in zip(targets, features, strict=True)]
            pulls = torch.tensor([sign * pull for sign, pull in zip(signs, near, strict=True)], dtype=torch.float64)
            torch.testing.assert_close(row, pulls / pulls.abs().sum())

    def test_a_query_that_is_an_example_is_explained_by_it(self) -> None:
        learner = build_learner(SPEC)
        assert isinstance(learner, Explains)
        params = learner.init(torch.Generator().manual_seed(0))
        support = make_support(torch.eye(3), torch.arange(3), 3)
        weights = learner.explain(params, learner.adapt(params, support).state, support, support.inputs)[0]
        torch.testing.assert_close(weights.diagonal(), torch.ones(3), rtol=0, atol=1e-3)

    def test_a_task_of_one_class_has_nothing_that_speaks_against(self) -> None:
        learner = build_learner(SPEC)
        assert isinstance(learner, Explains)
        params = learner.init(torch.Generator().manual_seed(0))
        support = make_support(torch.eye(3), torch.zeros(3, dtype=torch.int64), 1)
        weights = learner.explain(params, learner.adapt(params, support).state, support, torch.rand(1, 2, 3))
        assert (weights > 0).all()
        torch.testing.assert_close(weights.sum(2), torch.ones(1, 2))


@pytest.mark.parametrize("method", ["matchingnet", "protonet", "relationnet"])
def test_explanations_of_methods_that_compare_ignore_padding_and_company(method: str) -> None:
    learner = build_learner({**SPEC, "method": method})
    assert isinstance(learner, Explains)
    params = {name: tensor.double() for name, tensor in learner.init(torch.Generator().manual_seed(0)).items()}
    (mine, queries, _), (other, others, _) = make_task(learner, (1, 2), 0), make_task(learner, (3, 1, 2), 1)
    batch = stack_supports([mine, other])
    together = learner.explain(params, learner.adapt(params, batch).state, batch, torch.stack([queries, others[:2]]))
    alone = learner.explain(params, learner.adapt(params, mine).state, mine, queries[None])
    torch.testing.assert_close(together[:1, :, :3], alone, rtol=1e-9, atol=1e-12)
    assert together[0, :, 3:].eq(0).all()
    torch.testing.assert_close(together.abs().sum(2), torch.ones(2, 2, dtype=torch.float64))


# Printed by the outputs' tolist(); print it again when a formula changes by intent.
GOLDEN = [
    [-1.1890839773921655, -1.010136807867534, -1.2120533665148967],
    [-1.8276026770401357, -0.1828767995353024, -0.22271192737892725],
    [-2.4189547080972877, -0.13555692851077578, -0.17039994837311742],
]


def test_golden_outputs() -> None:
    learner = build_learner(SPEC)
    outputs = golden_outputs(learner, make_params(learner, seed=5))
    torch.testing.assert_close(outputs.detach(), torch.tensor(GOLDEN, dtype=torch.float64), rtol=1e-9, atol=1e-9)
