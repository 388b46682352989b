"""Matching networks against the paper's formulas in loops, and what must hold of any attention over a support set."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.errors import InvalidOptions
from models.methods import build_learner
from models.methods.matchingnet import MatchingNet
from models.support import Params, Support, make_support, split_state, stack_supports
from tests.models.methods.tiny_tasks import golden_outputs, is_gradient_of_differences, make_task

SPEC = {
    "method": "matchingnet",
    "kind": "classification",
    "input_shape": [3],
    "sharpness": 8.0,
    "backbone": {"kind": "mlp", "hidden": [6, 4]},
}
CONTEXT = {**SPEC, "full_context": True}
BOTH = pytest.mark.parametrize("spec", [SPEC, CONTEXT], ids=["plain", "full-context"])


def build(spec: dict[str, Any], seed: int = 0) -> tuple[MatchingNet, Params]:
    """A learner with float64 parameters none of which is at a neutral start."""
    learner = build_learner(spec)
    assert isinstance(learner, MatchingNet)
    generator = torch.Generator().manual_seed(seed)
    fresh = learner.init(generator)
    return learner, {name: t.double() + 0.3 * torch.randn(t.shape, generator=generator, dtype=torch.float64) for name, t in fresh.items()}


def attend_slowly(scores: list[float], targets: list[int]) -> list[float]:
    """Softmax in which an example of a class of n counts one n-th."""
    largest = max(scores)
    parts = [math.exp(score - largest) / targets.count(target) for score, target in zip(scores, targets, strict=True)]
    return [part / sum(parts) for part in parts]


def mix_slowly(asked: Tensor, offered: list[Tensor], values: list[Tensor], targets: list[int]) -> Tensor:
    shares = attend_slowly([float(asked @ other) / math.sqrt(len(asked)) for other in offered], targets)
    return sum((share * value for share, value in zip(shares, values, strict=True)), torch.zeros_like(asked))


def match_slowly(learner: MatchingNet, params: Params, support: Support, query: Tensor) -> list[float]:
    """The attention of one query on each support example."""
    keys, seen = list(learner.embed(params, support.inputs)[0]), learner.embed(params, query[None, None])[0, 0]
    targets = support.targets[0].tolist()
    if learner.full_context:
        offered = [params["context.offer"] @ key for key in keys]
        taken = [mix_slowly(params["context.ask"] @ key, offered, keys, targets) for key in keys]
        keys = [key + params["context.take"] @ what for key, what in zip(keys, taken, strict=True)]
        feature = seen
        for _ in range(learner.read_steps):
            seen = feature + params["read.take"] @ mix_slowly(params["read.ask"] @ seen, keys, keys, targets)
    sharpness = math.exp(params["attention.log_sharpness"])
    cosines = [float(seen @ key / (seen.norm() * key.norm())) for key in keys]
    return attend_slowly([sharpness * cosine for cosine in cosines], targets)


@BOTH
def test_a_class_gets_the_attention_of_its_members(spec: dict[str, Any]) -> None:
    learner, params = build(spec)
    support, queries, _ = make_task(learner, (1, 3, 2), seed=1)
    probabilities = learner.predict(params, learner.adapt(params, support).state, queries[None])[0].exp()
    targets = support.targets[0].tolist()
    for row, query in zip(probabilities, queries, strict=True):
        attention = match_slowly(learner, params, support, query)
        expected = [sum(share for share, target in zip(attention, targets, strict=True) if target == c) for c in range(3)]
        torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@BOTH
def test_the_explanation_is_the_attention_against_the_predicted_class_where_it_is_on_others(spec: dict[str, Any]) -> None:
    learner, params = build(spec)
    support, queries, _ = make_task(learner, (1, 3, 2), seed=2)
    state = learner.adapt(params, support).state
    weights = learner.explain(params, state, support, queries[None])[0]
    predicted = learner.predict(params, state, queries[None])[0].argmax(-1)
    for row, query, winner in zip(weights, queries, predicted, strict=True):
        signs = [1 if target == winner else -1 for target in support.targets[0]]
        expected = [sign * share for sign, share in zip(signs, match_slowly(learner, params, support, query), strict=True)]
        torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@BOTH
def test_the_meta_gradient_is_the_one_of_finite_differences(spec: dict[str, Any]) -> None:
    learner, params = build(spec, seed=3)
    params = {name: tensor.requires_grad_() for name, tensor in params.items()}
    assert is_gradient_of_differences(learner, params, make_task(learner, (1, 2, 1), seed=3))


@BOTH
def test_a_class_does_not_win_by_showing_its_examples_twice(spec: dict[str, Any]) -> None:
    learner, params = build(spec)
    support, queries, _ = make_task(learner, (1, 2, 1), seed=4)
    twice = torch.cat([torch.arange(4), torch.tensor([1, 2])])  # the examples of class 1 again
    doubled = make_support(support.inputs[0, twice], support.targets[0, twice], 3)
    once, again = (learner.predict(params, learner.adapt(params, s).state, queries[None]) for s in (support, doubled))
    torch.testing.assert_close(once, again, rtol=1e-9, atol=1e-12)


def test_before_training_the_context_changes_nothing() -> None:
    plain, full = build_learner(SPEC), build_learner(CONTEXT)
    fresh = full.init(torch.Generator().manual_seed(0))
    support, queries, _ = make_task(plain, (2, 1), seed=5)
    params = {name: tensor.double() for name, tensor in fresh.items()}
    answers = [learner.predict(params, learner.adapt(params, support).state, queries[None]) for learner in (plain, full)]
    torch.testing.assert_close(*answers)


def test_an_example_sees_the_others_only_in_full_context() -> None:
    for spec, is_context in ((SPEC, False), (CONTEXT, True)):
        learner, params = build(spec)
        support, _, _ = make_task(learner, (1, 1, 1), seed=6)
        other = make_support(torch.cat([support.inputs[0, :2], 1 - support.inputs[0, 2:]]), support.targets[0], 3)
        first, second = (learner.adapt(params, s).state["example.feature"][0, 0] for s in (support, other))
        assert torch.equal(first, second) != is_context


def test_a_class_without_attention_worth_a_float_still_has_a_finite_logit_and_gradient() -> None:
    learner = build_learner({**SPEC, "sharpness": 1e4})
    params = {name: tensor.requires_grad_() for name, tensor in learner.init(torch.Generator().manual_seed(0)).items()}
    support = make_support(torch.eye(3), torch.arange(3), 3)
    logits = learner.predict(params, learner.adapt(params, support, differentiable=True).state, torch.eye(3)[None])
    assert logits.softmax(-1).eq(0).any()  # too little for float32: the case that is meant
    assert logits.isfinite().all()
    gradients = torch.autograd.grad(logits.sum(), list(params.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_state_keeps_each_lanes_own_examples() -> None:
    learner, params = build(CONTEXT)
    tasks = [make_task(learner, shots, seed=7)[0] for shots in ((1, 3), (1, 1, 1), (4, 1, 2))]
    state = learner.adapt(params, stack_supports(tasks)).state
    assert state["example.feature"][0, 4:].eq(0).all()
    assert [lane["example.feature"].shape[1] for lane in split_state(state)] == [4, 3, 7]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sharpness": 0.0}, "sharpness must be a positive number, got 0.0"),
        ({"sharpness": math.nan}, "sharpness must be a positive number, got nan"),
        ({"read_steps": 0}, "read_steps must be at least 1, got 0"),
        ({"kind": "regression"}, "matchingnet does classification only"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptions, match=words):
        build_learner({**SPEC, **options})


# Printed by golden_outputs(*build(spec)).tolist(); print them again when a formula changes by intent.
GOLDEN = {
    False: [
        [-0.949904315456, -1.334746194495, -1.049830711077],
        [-1.390396286617, -0.889619625932, -1.078188102344],
        [-1.622401256439, -0.865152467790, -0.963412277928],
    ],
    True: [
        [-0.858850035400, -1.231941685358, -1.256581249942],
        [-0.685694109947, -1.243760315965, -1.570402515307],
        [-0.794168263034, -1.229418982976, -1.364217623384],
    ],
}


@BOTH
def test_golden_outputs(spec: dict[str, Any]) -> None:
    expected = torch.tensor(GOLDEN["full_context" in spec], dtype=torch.float64)
    torch.testing.assert_close(golden_outputs(*build(spec)), expected, rtol=1e-9, atol=1e-9)
