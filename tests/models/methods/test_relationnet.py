"""Relation networks against the relation module written out for one pair at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.errors import InvalidOptions
from models.methods import build_learner, relationnet
from models.methods.relationnet import RelationNet
from models.support import Params, make_support
from tests.models.methods.largest_result import LargestResult
from tests.models.methods.tiny_tasks import golden_outputs, is_gradient_of_differences, make_task

SPEC = {"method": "relationnet", "kind": "classification", "input_shape": [3], "hidden": 5, "backbone": {"kind": "mlp", "hidden": [6, 4]}}


def build(seed: int = 0) -> tuple[RelationNet, Params]:
    """A learner with float64 parameters none of which is at a neutral start."""
    learner = build_learner(SPEC)
    assert isinstance(learner, RelationNet)
    generator = torch.Generator().manual_seed(seed)
    fresh = learner.init(generator)
    return learner, {name: t.double() + 0.2 * torch.randn(t.shape, generator=generator, dtype=torch.float64) for name, t in fresh.items()}


def relate_slowly(params: Params, query: Tensor, other: Tensor) -> Tensor:
    """The score of one pair of features (d,): a perceptron of the three parts laid end to end."""
    pair = torch.cat([other, query, (query - other) ** 2])
    first = torch.cat([params["relation.class"], params["relation.query"], params["relation.difference"]], dim=1)
    layer = (first @ pair + params["relation.bias"]).clamp(min=0)
    layer = (params["relation.hidden.weight"] @ layer + params["relation.hidden.bias"]).clamp(min=0)
    return params["relation.score"][0] @ layer


def test_logits_are_relation_scores_with_the_mean_of_each_class() -> None:
    learner, params = build()
    support, queries, _ = make_task(learner, (1, 3, 2), seed=1)
    features, embedded = learner.embed(params, support.inputs)[0], learner.embed(params, queries[None])[0]
    means = [features[support.targets[0] == c].mean(0) for c in range(3)]
    expected = torch.stack([torch.stack([relate_slowly(params, query, mean) for mean in means]) for query in embedded])
    logits = learner.predict(params, learner.adapt(params, support).state, queries[None])[0]
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-12)


def test_the_explanation_weighs_the_relation_scores_of_single_examples() -> None:
    learner, params = build()
    support, queries, _ = make_task(learner, (1, 3, 2), seed=2)
    state = learner.adapt(params, support).state
    weights = learner.explain(params, state, support, queries[None])[0]
    predicted = learner.predict(params, state, queries[None])[0].argmax(-1)
    features, targets = learner.embed(params, support.inputs)[0], support.targets[0]
    counts = targets.bincount()[targets]
    for row, query, winner in zip(weights, learner.embed(params, queries[None])[0], predicted, strict=True):
        scores = torch.stack([relate_slowly(params, query, feature) for feature in features])
        shares = scores.exp() / counts / (scores.exp() / counts).sum()
        torch.testing.assert_close(row, torch.where(targets == winner, shares, -shares), rtol=1e-9, atol=1e-12)


def test_with_one_example_a_class_the_explanation_is_the_answer() -> None:
    learner, params = build()
    support, queries, _ = make_task(learner, (1, 1, 1), seed=3)
    state = learner.adapt(params, support).state
    probabilities = learner.predict(params, state, queries[None]).softmax(-1)
    torch.testing.assert_close(learner.explain(params, state, support, queries[None]).abs(), probabilities, rtol=1e-9, atol=1e-12)


def test_the_meta_gradient_is_the_one_of_finite_differences() -> None:
    learner, params = build(seed=4)
    params = {name: tensor.requires_grad_() for name, tensor in params.items()}
    assert is_gradient_of_differences(learner, params, make_task(learner, (1, 2, 1), seed=4))


def test_before_training_the_more_a_query_differs_the_lower_is_its_score() -> None:
    learner = build_learner(SPEC)
    params = learner.init(torch.Generator().manual_seed(0))
    mean = torch.rand(1, 1, 4)
    queries = mean + torch.linspace(0, 1, 6).view(1, 6, 1) * torch.tensor([1.0, -1.0, 0.5, 0.0])
    scores = relationnet.relate(params, queries, mean)[0, :, 0]
    assert scores[0] == 0
    assert (scores.diff() < 0).all()


def test_adapting_without_training_keeps_no_graph() -> None:
    learner, params = build()
    params = {name: tensor.requires_grad_() for name, tensor in params.items()}
    adaptation = learner.adapt(params, make_support(torch.rand(2, 3, dtype=torch.float64), torch.arange(2), 2))
    assert not any(tensor.requires_grad for tensor in (*adaptation.state.values(), adaptation.loss))


def test_many_queries_of_many_classes_take_blocks_of_memory_and_give_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    _, params = build()
    generator = torch.Generator().manual_seed(0)
    queries, classes = (torch.rand(2, count, 4, generator=generator, dtype=torch.float64) for count in (50, 30))
    at_once = relationnet.relate(params, queries, classes)
    limit = 3 * 2 * 30 * 5  # rows of three queries in both lanes, of the widest layer
    monkeypatch.setattr(relationnet, "_MAX_NUMBERS", limit)
    with LargestResult() as largest:
        in_blocks = relationnet.relate(params, queries, classes)
    torch.testing.assert_close(in_blocks, at_once, rtol=1e-12, atol=1e-12)
    assert largest.numel <= max(limit, at_once.numel())


@pytest.mark.parametrize(
    ("options", "words"),
    [({"hidden": 0}, "hidden must be at least 1, got 0"), ({"kind": "regression"}, "relationnet does classification only")],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptions, match=words):
        build_learner({**SPEC, **options})


# Printed by golden_outputs(*build(seed=5)).tolist(); print it again when a formula changes by intent.
GOLDEN = [
    [-0.175874719275, -0.351100945021, -1.832044003866],
    [-0.828035118778, -0.112695780000, -0.287437463678],
    [-2.019736232900, -0.533175323002, -0.104792580814],
]


def test_golden_outputs() -> None:
    torch.testing.assert_close(golden_outputs(*build(seed=5)), torch.tensor(GOLDEN, dtype=torch.float64), rtol=1e-8, atol=1e-8)
