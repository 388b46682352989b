"""Reptile: parts of an episode, the way the inner loop takes through them, and the gradient towards its end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.episodes import EpisodeBatch
from models.errors import InvalidOptions
from models.methods import build_learner
from models.methods.reptile import Reptile, deal_examples, join_queries
from models.support import Params, Support, make_support, stack_supports
from tests.models.methods.tiny_tasks import make_params, make_task, objective_by_hand

CLASSES = {
    "method": "reptile",
    "kind": "classification",
    "input_shape": [3],
    "inner_steps": 5,
    "inner_parts": 2,
    "backbone": {"kind": "mlp", "hidden": [5]},
}
CURVE = {**CLASSES, "kind": "regression", "input_shape": [1], "inner_parts": 3}
BOTH = pytest.mark.parametrize("spec", [CLASSES, CURVE], ids=["classification", "regression"])


def build(spec: dict[str, Any], **options: Any) -> Reptile:
    learner = build_learner({**spec, **options})
    assert isinstance(learner, Reptile)
    return learner


def make_batch(learner: Reptile) -> tuple[EpisodeBatch, list[tuple[Tensor, Tensor]]]:
    """Two episodes of three classes and different shots, and the inputs and targets of each, queries at the end."""
    tasks = [make_task(learner, shots, seed) for seed, shots in enumerate([(1, 2, 1), (2, 2, 2)])]
    batch = EpisodeBatch(
        stack_supports([task[0] for task in tasks]), torch.stack([task[1] for task in tasks]), torch.stack([task[2] for task in tasks])
    )
    return batch, [(torch.cat([s.inputs[0], q]), torch.cat([s.targets[0], a])) for s, q, a in tasks]


def part_by_hand(inputs: Tensor, targets: Tensor, part: int, n_parts: int) -> Support:
    """Every `n_parts`-th example of each class (of all, for regression) from the `part`-th on."""
    groups = [list(range(len(targets)))]
    if not targets.is_floating_point():
        groups = [[i for i, target in enumerate(targets.tolist()) if target == c] for c in range(3)]
    chosen = sorted(i for group in groups for i in group[part::n_parts])
    mask = torch.ones(1, len(chosen), dtype=torch.bool)
    return Support(inputs[chosen][None], targets[chosen][None], mask, torch.ones(1, 0 if targets.is_floating_point() else 3))


def adapt_by_hand(params: Params, inputs: Tensor, targets: Tensor, spec: dict[str, Any]) -> Params:
    weights = {name: tensor.detach() for name, tensor in params.items()}
    if spec["kind"] == "classification":
        weights |= {"class.weight": torch.zeros(3, 5).double(), "class.bias": torch.zeros(3).double()}
    for step in range(spec["inner_steps"]):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
        seen = part_by_hand(inputs, targets, step % spec["inner_parts"], spec["inner_parts"])
        gradients = torch.autograd.grad(objective_by_hand(leaves, seen), list(leaves.values()))
        weights = {name: weights[name] - 0.1 * g for name, g in zip(weights, gradients, strict=True)}
    return weights


@BOTH
def test_the_meta_gradient_is_initial_minus_mean_adapted_weights(spec: dict[str, Any]) -> None:
    learner = build(spec)
    params = make_params(learner)
    batch, episodes = make_batch(learner)
    loss, _ = learner.meta_loss(params, batch, 0.0)
    ends = [adapt_by_hand(params, *episode, spec) for episode in episodes]
    gradients = torch.autograd.grad(loss, list(params.values()))
    for (name, tensor), gradient in zip(params.items(), gradients, strict=True):
        expected = tensor.detach() - torch.stack([end[name] for end in ends]).mean(0)
        assert expected.abs().max() > 1e-6, name
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    expected_loss = sum(((params[name] - end[name]) ** 2).sum() / 4 for end in ends for name in params)
    torch.testing.assert_close(loss, expected_loss)


def test_a_step_along_the_gradient_brings_the_start_nearer_to_the_ends() -> None:
    learner = build(CURVE)
    params = make_params(learner)
    batch, _ = make_batch(learner)
    before, _ = learner.meta_loss(params, batch, 0.0)
    gradients = torch.autograd.grad(before, list(params.values()))
    moved = {name: (t - 0.5 * g).detach() for (name, t), g in zip(params.items(), gradients, strict=True)}
    assert learner.meta_loss(moved, batch, 0.0)[0] < before


def test_every_example_is_in_one_part_and_every_class_in_all_where_it_can_be() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.tensor([2, 0, 1, 2, 2, 0, 1, 0, 1, 0])
    mine = make_support(torch.rand(10, 3, generator=generator), targets, 3)
    other = make_support(torch.rand(4, 3, generator=generator), torch.tensor([0, 1, 1, 0]), 2)
    parts = deal_examples(stack_supports([mine, other]), 3)
    assert len(parts) == 3
    for lane, support in enumerate((mine, other)):
        dealt = torch.cat([part.inputs[lane][part.mask[lane]] for part in parts])
        assert sorted(dealt.tolist()) == sorted(support.inputs[0].tolist())
    assert [part.targets[0][part.mask[0]].tolist() for part in parts] == [[2, 0, 1, 0], [2, 0, 1], [2, 0, 1]]
    assert [part.targets[1][part.mask[1]].tolist() for part in parts] == [[0, 1], [1, 0], []]


def test_there_are_no_empty_parts() -> None:
    support = make_support(torch.rand(3, 3), torch.tensor([0, 0, 1]), 2)
    assert [int(part.mask.sum()) for part in deal_examples(support, 5)] == [2, 1]


def test_the_queries_are_among_the_examples() -> None:
    learner = build(CLASSES)
    batch, episodes = make_batch(learner)
    joined = join_queries(batch)
    for lane, (inputs, targets) in enumerate(episodes):
        assert torch.equal(joined.inputs[lane][joined.mask[lane]], inputs)
        assert torch.equal(joined.targets[lane][joined.mask[lane]], targets)


def test_serving_takes_its_own_number_of_steps_on_all_examples() -> None:
    learner = build(CLASSES, test_steps=8)
    maml = build_learner({**{key: CLASSES[key] for key in ("kind", "input_shape", "backbone")}, "method": "maml", "inner_steps": 8})
    params = make_params(learner)
    support, _, _ = make_task(learner, (1, 2, 1), 0)
    ours, theirs = learner.adapt(params, support), maml.adapt(params, support)
    assert learner.default_steps == 8
    assert ours.loss.shape == (1, 9)
    assert all(torch.equal(ours.state[name], theirs.state[name]) for name in theirs.state)
    assert build(CLASSES).default_steps == 5


def test_the_answer_is_what_the_inner_loop_descends_on() -> None:
    learner = build(CLASSES)
    params = make_params(learner)
    assert not any(name.startswith("answer.") for name in params)
    support, _, _ = make_task(learner, (2, 2, 2), 0)
    adaptation = learner.adapt(params, support)
    logits = learner.predict(params, adaptation.state, support.inputs)
    loss = torch.nn.functional.cross_entropy(logits[0], support.targets[0])
    torch.testing.assert_close(adaptation.loss[0, -1], loss.detach())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inner_parts": 0}, "inner_parts >= 1 and test_steps >= 0"),
        ({"test_steps": -1}, "inner_parts >= 1 and test_steps >= 0"),
        ({"first_order": False}, "for second derivatives use maml"),
        ({"inner_steps": 1}, "inner_steps must be at least 2"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOptions, match=words):
        build_learner({**CLASSES, **options})
