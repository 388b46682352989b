"""Conditional neural processes against the equations, written as loops over examples, queries and classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.errors import InvalidOptions
from models.methods import build_learner, cnp
from models.methods.cnp import Cnp
from models.support import Params, Support, make_support, stack_supports
from tests.models.methods.tiny_tasks import is_gradient_of_differences

BACKBONE = {"kind": "mlp", "hidden": [6, 5]}
CLASSES: dict[str, Any] = {"method": "cnp", "kind": "classification", "input_shape": [3], "width": 7, "backbone": BACKBONE}
CURVES: dict[str, Any] = {"method": "cnp", "kind": "regression", "input_shape": [1], "width": 7, "n_out": 2, "backbone": BACKBONE}
TARGETS = torch.tensor([0, 0, 1, 2, 2, 2])


def build(spec: dict[str, Any]) -> tuple[Cnp, Params, torch.Generator]:
    """A learner, float64 parameters without a zero among them, and the generator that made them."""
    learner, generator = build_learner(spec), torch.Generator().manual_seed(3)
    assert isinstance(learner, Cnp)
    params = learner.init(generator)
    params = {name: tensor.double() + 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in params.items()}
    return learner, params, generator


def draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def affine(params: Params, name: str, row: Tensor) -> Tensor:
    bias = params.get(f"{name}.bias")
    return params[f"{name}.weight"] @ row + (0 if bias is None else bias)


def encode(params: Params, row: Tensor) -> Tensor:
    return affine(params, "encoder.last", F.relu(affine(params, "encoder.first", row)))


def decode(params: Params, first: Tensor) -> Tensor:
    return affine(params, "decoder.last", F.relu(affine(params, "decoder.hidden", F.relu(first))))


def score(params: Params, query: Tensor, average: Tensor, averages: list[Tensor]) -> Tensor:
    """The logit of one class for one embedded query."""
    encoded, context = encode(params, query), torch.stack(averages).mean(0)
    distance = (encoded - average).abs()
    parts = {"query": encoded, "average": average, "context": context, "distance": distance}
    first = torch.stack([affine(params, f"decoder.{name}", part) for name, part in parts.items()]).sum(0)
    return (decode(params, first) + params["decoder.skip.weight"] @ distance)[0]


def test_a_class_is_scored_by_its_average_beside_the_mean_of_all_classes() -> None:
    learner, params, generator = build(CLASSES)
    inputs, queries = draw((6, 3), generator), draw((4, 3), generator)
    state = learner.adapt(params, make_support(inputs, TARGETS, 3)).state
    found = learner.predict(params, state, queries[None])[0]

    rows = learner.embed(params, inputs[None])[0]
    averages = [torch.stack([encode(params, row) for row in rows[c == TARGETS]]).mean(0) for c in range(3)]
    expected = [[score(params, query, average, averages) for average in averages] for query in learner.embed(params, queries[None])[0]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(state["class.representation"][0], torch.stack(averages))


def test_a_value_is_decoded_from_the_query_and_the_mean_of_the_encoded_pairs() -> None:
    learner, params, generator = build(CURVES)
    inputs, values, queries = draw((5, 1), generator), draw((5, 2), generator), draw((3, 1), generator)
    state = learner.adapt(params, make_support(inputs, values)).state
    pairs = zip(learner.embed(params, inputs[None])[0], values, strict=True)
    average = torch.stack([encode(params, torch.cat(pair)) for pair in pairs]).mean(0)
    torch.testing.assert_close(state["representation"][0], average)
    for query, found in zip(learner.embed(params, queries[None])[0], learner.predict(params, state, queries[None])[0], strict=True):
        first = affine(params, "decoder.query", query) + affine(params, "decoder.average", average)
        torch.testing.assert_close(found, decode(params, first))


@pytest.mark.parametrize("spec", [CLASSES, CURVES], ids=["classes", "curves"])
def test_examples_said_twice_are_said_once(spec: dict[str, Any]) -> None:
    learner, params, generator = build(spec)
    once = make_task(learner, generator)
    inputs, targets, mask = (torch.cat([t, t], 1) for t in (once.inputs, once.targets, once.mask))
    twice = Support(inputs, targets, mask, once.class_mask)
    queries = draw((1, 4, *learner.input_shape), generator)
    first, second = (learner.predict(params, learner.adapt(params, support).state, queries) for support in (once, twice))
    torch.testing.assert_close(first, second)


def make_task(learner: Cnp, generator: torch.Generator) -> Support:
    inputs = draw((6, *learner.input_shape), generator)
    return make_support(inputs, TARGETS, 3) if learner.kind == "classification" else make_support(inputs, draw((6, 2), generator))


@pytest.mark.parametrize("spec", [CLASSES, CURVES], ids=["classes", "curves"])
def test_an_explanation_is_the_slope_of_the_answer_in_what_each_example_says(spec: dict[str, Any]) -> None:
    """By central differences: each example's representation a little louder and a little quieter."""
    learner, params, generator = build(spec)
    support, queries = make_task(learner, generator), draw((1, 2, *learner.input_shape), generator)
    state = learner.adapt(params, support).state
    found = learner.explain(params, state, support, queries)[0]
    chosen = learner.predict(params, state, queries)[0].argmax(-1)
    represented = learner._represent(params, learner.embed(params, support.inputs), support)

    def answer(louder: Tensor) -> Tensor:
        changed = learner._aggregate(represented * louder[None, :, None], support)
        outputs = learner.predict(params, changed, queries)[0]
        return outputs.gather(1, chosen[:, None])[:, 0] if learner.kind == "classification" else outputs.sum(-1)

    step = 1e-5 * torch.eye(6, dtype=torch.float64)
    slopes = torch.stack([(answer(1 + row) - answer(1 - row)) / 2e-5 for row in step], 1)
    torch.testing.assert_close(found, slopes / slopes.abs().sum(1, keepdim=True), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", [CLASSES, CURVES], ids=["classes", "curves"])
def test_the_meta_gradient_is_the_one_of_finite_differences(spec: dict[str, Any]) -> None:
    learner, params, generator = build(spec)
    support, queries = make_task(learner, generator), draw((3, *learner.input_shape), generator)
    answers = torch.arange(3) if learner.kind == "classification" else draw((3, 2), generator)
    leaves = {name: tensor.requires_grad_() for name, tensor in params.items()}
    assert is_gradient_of_differences(learner, leaves, (support, queries, answers))


def test_padding_has_no_part_in_an_explanation_and_an_absent_class_none_in_its_gradient() -> None:
    learner, params, generator = build(CLASSES)
    large = make_task(learner, generator)
    small = make_support(draw((2, 3), generator), torch.tensor([0, 1]), 2)
    support, queries = stack_supports([small, large]), draw((2, 3, 3), generator)
    params = {name: tensor.requires_grad_() for name, tensor in params.items()}
    adaptation = learner.adapt(params, support, differentiable=True)
    weights = learner.explain(params, {name: tensor.detach() for name, tensor in adaptation.state.items()}, support, queries)
    assert weights[0, :, 2:].eq(0).all()
    torch.testing.assert_close(weights.abs().sum(-1), torch.ones(2, 3, dtype=torch.float64))
    loss = -learner.predict(params, adaptation.state, queries).log_softmax(-1)[..., 0].sum()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, list(params.values())))


def test_queries_in_blocks_are_answered_with_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, params, generator = build(CLASSES)
    state, queries = learner.adapt(params, make_task(learner, generator)).state, draw((1, 9, 3), generator)
    at_once = learner.predict(params, state, queries)
    monkeypatch.setattr(cnp, "_MAX_NUMBERS", 2 * state["class.representation"].numel())
    torch.testing.assert_close(learner.predict(params, state, queries), at_once, rtol=1e-12, atol=1e-12)


def test_an_untrained_classifier_answers_with_the_nearest_average() -> None:
    """The decoder starts silent beside the distance, so that training starts from a classifier."""
    learner, _, generator = build(CLASSES)
    params = {name: tensor.double() for name, tensor in learner.init(generator).items()}
    support, queries = make_task(learner, generator), draw((1, 5, 3), generator)
    state = learner.adapt(params, support).state
    encoded = [encode(params, row) for row in learner.embed(params, queries)[0]]
    expected = torch.stack([-cnp.INITIAL_SHARPNESS * (row - state["class.representation"][0]).abs().mean(1) for row in encoded])
    torch.testing.assert_close(learner.predict(params, state, queries)[0], expected)


@pytest.mark.parametrize("change", [{"width": 0}, {"n_out": 0}])
def test_options_out_of_range_are_refused_with_words(change: dict[str, int]) -> None:
    with pytest.raises(InvalidOptions, match=r"width >= 1 and n_out >= 1, got"):
        build_learner({**CURVES, **change})


GOLDEN = {
    "classes": [
        [-11.322703878766703, -11.614621163927213, -2.4448516574179004],
        [-3.090022960088293, -3.3560461227595253, -5.429593099973414],
    ],
    "curves": [[0.26358215422344794, -0.42165250698708906], [0.2847287690567727, -0.39560285440377774]],
}
"""Outputs of the seeded episode below. Should they have to change: print `answer_golden(...)` and say why in the commit."""


def answer_golden(spec: dict[str, Any]) -> Tensor:
    learner, params, generator = build(spec)
    support = make_task(learner, generator)
    return learner.predict(params, learner.adapt(params, support).state, draw((1, 2, *learner.input_shape), generator))[0]


@pytest.mark.parametrize(("name", "spec"), [("classes", CLASSES), ("curves", CURVES)])
def test_the_golden_episode_gives_the_recorded_outputs(name: str, spec: dict[str, Any]) -> None:
    torch.testing.assert_close(answer_golden(spec), torch.tensor(GOLDEN[name], dtype=torch.float64), rtol=1e-9, atol=1e-9)
