"""The set transformer against attention written as loops over tokens and heads; and what its construction promises."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.errors import InvalidOptions
from models.methods import build_learner, set_attention
from models.methods.incontext import InContext
from models.support import Params, Support, make_support, split_state, stack_supports

BACKBONE = {"kind": "mlp", "hidden": [6, 5]}
CLASSES: dict[str, Any] = {
    "method": "incontext",
    "kind": "classification",
    "input_shape": [3],
    "width": 8,
    "heads": 2,
    "backbone": BACKBONE,
}
CURVES: dict[str, Any] = {**CLASSES, "kind": "regression", "input_shape": [1], "n_out": 2}
TARGETS = torch.tensor([0, 0, 1, 2, 2, 2])


def build(spec: dict[str, Any]) -> tuple[InContext, Params, torch.Generator]:
    """A learner, float64 parameters without a zero among them and with blunt answers, and the generator that made them."""
    learner, generator = build_learner(spec), torch.Generator().manual_seed(5)
    assert isinstance(learner, InContext)
    params = learner.init(generator)
    params = {name: tensor.double() + 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in params.items()}
    if "answer.log_sharpness" in params:
        params["answer.log_sharpness"] = torch.tensor(1.0, dtype=torch.float64)
    return learner, params, generator


def draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def make_task(learner: InContext, generator: torch.Generator) -> Support:
    inputs = draw((6, *learner.input_shape), generator)
    return make_support(inputs, TARGETS, 3) if learner.kind == "classification" else make_support(inputs, draw((6, 2), generator))


class Reference:
    """One task, one token at a time."""

    def __init__(self, learner: InContext, params: Params, support: Support) -> None:
        self.learner, self.params = learner, params
        self.is_classification = learner.kind == "classification"
        self.targets = support.targets[0]
        self.stream = [self.tokenize(support.inputs[0])]
        if not self.is_classification:
            self.stream[0] = self.stream[0] + self.targets @ params["target.weight"].mT
        for layer in range(1, learner.layers + 1):
            rows = [self.block(layer, token, int(c) if self.is_classification else -1) for token, c in self._rows(layer)]
            self.stream.append(torch.stack([token for token, _ in rows]))

    def _rows(self, layer: int) -> list[tuple[Tensor, Tensor]]:
        marks = self.targets if self.is_classification else torch.zeros(len(self.targets))
        return list(zip(self.stream[layer - 1], marks, strict=True))

    def tokenize(self, inputs: Tensor) -> Tensor:
        return self.learner.embed(self.params, inputs[None])[0] @ self.params["token.weight"].mT + self.params["token.bias"]

    def share(self, index: int) -> float:
        return 1 / int((self.targets == self.targets[index]).sum()) if self.is_classification else 1.0

    def block(self, layer: int, token: Tensor, own_class: int) -> tuple[Tensor, Tensor]:
        """The token after a layer, and its attention (heads, n_support); own_class is -1 for who has none."""
        p = {name.removeprefix(f"layer{layer}."): t for name, t in self.params.items() if name.startswith(f"layer{layer}.")}
        size, normed = self.learner.width // self.learner.heads, normalise(token)
        taken, seen = [], []
        for head in range(self.learner.heads):
            rows = slice(head * size, (head + 1) * size)
            asked = p["query.weight"][rows] @ normed
            strengths = []
            for j, other in enumerate(self.stream[layer - 1]):
                score = asked @ (p["key.weight"][rows] @ normalise(other)) / math.sqrt(size)
                if self.is_classification and own_class == int(self.targets[j]):
                    score = score + p["favour"][head]
                strengths.append(score.exp() * self.share(j))
            seen.append(torch.stack(strengths) / sum(strengths))
            values = torch.stack([p["value.weight"][rows] @ normalise(other) for other in self.stream[layer - 1]])
            taken.append(seen[-1] @ values)
        token = token + p["take.weight"] @ torch.cat(taken)
        widened = F.relu(p["widen.weight"] @ normalise(token) + p["widen.bias"])
        return token + p["narrow.weight"] @ widened + p["narrow.bias"], torch.stack(seen)

    def read(self, query: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The answer to one query, as probabilities or values, and the attention of each step averaged over heads."""
        token, seen = self.tokenize(query[None])[0], []
        for layer in range(1, self.learner.layers + 1):
            token, attention = self.block(layer, token, -1)
            seen.append(attention.mean(0))
        if not self.is_classification:
            return self.params["answer.weight"] @ token + self.params["answer.bias"], seen
        sharpness = self.params["answer.log_sharpness"].exp()
        cosines = torch.stack([normalise(token) @ normalise(other) / self.learner.width for other in self.stream[-1]])
        strengths = (sharpness * cosines).exp() * torch.tensor([self.share(j) for j in range(len(cosines))])
        last = strengths / strengths.sum()
        return torch.stack([last[self.targets == c].sum() for c in range(3)]), [*seen, last]


def normalise(token: Tensor) -> Tensor:
    return (token - token.mean()) / (token.var(correction=0) + 1e-5).sqrt()


@pytest.mark.parametrize("spec", [CLASSES, CURVES, {**CLASSES, "layers": 3, "heads": 1}], ids=["classes", "curves", "deep"])
def test_answers_and_explanations_are_those_of_the_loops(spec: dict[str, Any]) -> None:
    learner, params, generator = build(spec)
    support, queries = make_task(learner, generator), draw((3, *learner.input_shape), generator)
    state = learner.adapt(params, support).state
    outputs, weights = learner.predict(params, state, queries[None])[0], learner.explain(params, state, support, queries[None])[0]
    reference = Reference(learner, params, support)
    for query, output, explained in zip(queries, outputs, weights, strict=True):
        expected, seen = reference.read(query)
        torch.testing.assert_close(output.softmax(-1) if learner.kind == "classification" else output, expected)
        attention = torch.stack(seen).mean(0)
        if learner.kind == "classification":
            attention = torch.where(expected.argmax() == TARGETS, attention, -attention)
        torch.testing.assert_close(explained, attention)


@pytest.mark.parametrize("spec", [CLASSES, CURVES], ids=["classes", "curves"])
def test_what_is_said_twice_is_said_once(spec: dict[str, Any]) -> None:
    """For classes even when only one class repeats itself: no class gains by its number of shots."""
    learner, params, generator = build(spec)
    once, queries = make_task(learner, generator), draw((1, 4, *learner.input_shape), generator)
    again = once.targets[0] == 2 if learner.kind == "classification" else once.mask[0]
    inputs, targets, mask = (torch.cat([t, t[:, again]], 1) for t in (once.inputs, once.targets, once.mask))
    twice = Support(inputs, targets, mask, once.class_mask)
    first, second = (learner.predict(params, learner.adapt(params, support).state, queries) for support in (once, twice))
    torch.testing.assert_close(first, second)


def test_the_classes_of_the_others_matter_to_an_answer() -> None:
    """The transformer does read the labels: with the same examples of class 0 and others regrouped, class 0 is judged otherwise."""
    learner, params, generator = build(CLASSES)
    support, queries = make_task(learner, generator), draw((1, 4, 3), generator)
    regrouped = replace(support, targets=torch.tensor([[0, 0, 1, 1, 2, 2]]))
    codes = [learner.adapt(params, s).state["example.code"][:, :2] for s in (support, regrouped)]
    assert (codes[0] - codes[1]).abs().max() > 1e-3
    answers = [learner.predict(params, learner.adapt(params, s).state, queries)[..., 0] for s in (support, regrouped)]
    assert (answers[0] - answers[1]).abs().max() > 1e-3


def test_attention_in_blocks_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, params, generator = build(CLASSES)
    support, queries = make_task(learner, generator), draw((1, 9, 3), generator)

    def answer() -> Tensor:
        return learner.predict(params, learner.adapt(params, support).state, queries)

    at_once = answer()
    rows = []
    plain = set_attention.attention_weights

    def record(query: Tensor, *rest: Any) -> Tensor:
        rows.append(query.shape[1])
        return plain(query, *rest)

    monkeypatch.setattr(set_attention, "attention_weights", record)
    monkeypatch.setattr(set_attention, "_MAX_SCORES", 2 * 2 * 6)
    torch.testing.assert_close(answer(), at_once, rtol=1e-12, atol=1e-12)
    assert max(rows) == 2


@pytest.mark.parametrize("spec", [CLASSES, CURVES], ids=["classes", "curves"])
def test_the_meta_gradient_is_that_of_finite_differences_also_beside_padding(spec: dict[str, Any]) -> None:
    learner, params, generator = build(spec)
    large, is_classification = make_task(learner, generator), learner.kind == "classification"
    small = Support(large.inputs[:, :3] + 0.1, large.targets[:, :3], large.mask[:, :3], large.class_mask[:, :2])
    support, queries = stack_supports([small, large]), draw((2, 2, *learner.input_shape), generator)

    def loss(weights: Params) -> Tensor:
        outputs = learner.predict(weights, learner.adapt(weights, support, differentiable=True).state, queries)
        return -outputs.log_softmax(-1)[..., 1].mean() if is_classification else outputs.square().mean()

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    gradients = dict(zip(leaves, torch.autograd.grad(loss(leaves), list(leaves.values())), strict=True))
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    for name, gradient in gradients.items():
        direction = draw(tuple(params[name].shape), generator)
        ends = [loss({**params, name: params[name] + sign * 1e-5 * direction}) for sign in (1, -1)]
        torch.testing.assert_close((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-8, msg=name)


@pytest.mark.parametrize("spec", [CLASSES, CURVES], ids=["classes", "curves"])
def test_the_state_has_a_row_for_each_example_and_none_for_padding(spec: dict[str, Any]) -> None:
    learner, params, generator = build(spec)
    large = make_task(learner, generator)
    small = Support(large.inputs[:, :3], large.targets[:, :3], large.mask[:, :3], large.class_mask[:, :2])
    state = learner.adapt(params, stack_supports([small, large])).state
    assert not any(tensor.requires_grad for tensor in state.values())
    rows = {name: tensor for name, tensor in split_state(state)[0].items() if name.startswith("example.")}
    assert {"example.mask", "example.key1", "example.value2"} <= set(rows)
    assert all(tensor.shape[1] == 3 for tensor in rows.values())
    assert all(state[name][0, 3:].eq(0).all() for name in rows)


@pytest.mark.parametrize("change", [{"heads": 3}, {"heads": 0}, {"layers": 0}, {"width": 0}, {"n_out": 0}])
def test_options_out_of_range_are_refused_with_words(change: dict[str, int]) -> None:
    with pytest.raises(InvalidOptions, match="a width that heads divide, got"):
        build_learner({**CURVES, **change})


GOLDEN = {
    "classes": [
        [-0.7158000667338389, -2.128200227266891, -0.9361165932273381],
        [-0.9440846212769914, -1.8721048088362373, -0.7827111762002492],
    ],
    "curves": [[1.2547676341014855, -2.3945634438592123], [3.7804479453753985, -1.570861269656184]],
}
"""Outputs of the seeded episode below. Should they have to change: print `answer_golden(...)` and say why in the commit."""


def answer_golden(spec: dict[str, Any]) -> Tensor:
    learner, params, generator = build(spec)
    support = make_task(learner, generator)
    return learner.predict(params, learner.adapt(params, support).state, draw((1, 2, *learner.input_shape), generator))[0]


@pytest.mark.parametrize(("name", "spec"), [("classes", CLASSES), ("curves", CURVES)])
def test_the_golden_episode_gives_the_recorded_outputs(name: str, spec: dict[str, Any]) -> None:
    torch.testing.assert_close(answer_golden(spec), torch.tensor(GOLDEN[name], dtype=torch.float64), rtol=1e-9, atol=1e-9)
