"""MAML++ against its inner loop and multi-step loss written out for one task, and against finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.episodes import EpisodeBatch
from models.errors import InvalidOptions
from models.learner import HasMetaLoss
from models.methods import build_learner
from models.methods.mamlpp import MamlPlusPlus
from models.support import Params, Support, stack_supports
from tests.models.methods.tiny_tasks import is_gradient_of_differences, make_params, make_task, outer_loss

CONV = {"kind": "conv4", "filters": 4, "groups": 2}
IMAGE = {"method": "mamlpp", "kind": "classification", "input_shape": [1, 16, 16], "inner_steps": 3, "backbone": CONV}
CURVE = {"method": "mamlpp", "kind": "regression", "input_shape": [1], "inner_steps": 3, "backbone": {"kind": "mlp", "hidden": [6]}}
BOTH = pytest.mark.parametrize("spec", [IMAGE, CURVE], ids=["classification", "regression"])


def build(spec: dict[str, Any], **options: Any) -> MamlPlusPlus:
    learner = build_learner({**spec, **options})
    assert isinstance(learner, MamlPlusPlus)
    return learner


def draw_steps(params: Params, seed: int) -> Params:
    """Rates and sets of normalisation all different, as after a meta-training."""
    generator = torch.Generator().manual_seed(seed)

    def spread(tensor: Tensor) -> Tensor:
        return (tensor.detach() + 0.05 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)).requires_grad_()

    return {name: spread(tensor) if name.startswith("step.") else tensor for name, tensor in params.items()}


def forward_by_hand(weights: Params, inputs: Tensor) -> Tensor:
    """The network written out with torch's own functions, for one task."""
    if "head.weight" in weights:
        hidden = F.relu(F.linear(inputs, weights["body.linear1.weight"], weights["body.linear1.bias"]))
        return F.linear(hidden, weights["head.weight"], weights["head.bias"])
    maps = inputs
    for block in (1, 2, 3, 4):
        maps = F.conv2d(maps, weights[f"body.conv{block}.weight"], padding=1, stride=2)
        maps = F.relu(F.group_norm(maps, 2, weights[f"body.norm{block}.scale"], weights[f"body.norm{block}.shift"]))
    features = maps.flatten(1)
    return F.linear(features * (20 / features.shape[1]) ** 0.5, weights["class.weight"], weights["class.bias"])


def objective_by_hand(weights: Params, support: Support) -> Tensor:
    outputs, targets = forward_by_hand(weights, support.inputs[0]), support.targets[0]
    if targets.is_floating_point():
        return F.mse_loss(outputs, targets)
    return sum((F.cross_entropy(outputs[targets == c], targets[targets == c]) for c in range(support.max_way)), torch.zeros(()))


def norm_of_step(params: Params, step: int) -> Params:
    """The scales and shifts of a step: the first step's own, with the later steps' differences to them."""
    row = min(step, 2) - 1
    changes = {name.removeprefix("step.change."): tensor for name, tensor in params.items() if name.startswith("step.change.")}
    return {name: params[name] + (change[row] if row >= 0 else 0) for name, change in changes.items()}


def points_by_hand(params: Params, support: Support, steps: int, second_order: bool = True) -> list[Params]:
    """The weights after each step, each with the normalisation of that step; every tensor that moves is moved at every step."""
    weights = {name: tensor for name, tensor in params.items() if name.startswith(("body.", "head."))}
    if support.max_way:
        width = params["step.rate.class.weight"].new_zeros(support.max_way, 4)
        weights |= {"class.weight": width.requires_grad_(), "class.bias": width.detach()[:, 0].clone().requires_grad_()}
    points = []
    for step in range(steps):
        weights = {**weights, **norm_of_step(params, step)}
        names = [name for name in weights if f"step.rate.{name}" in params]
        gradients = torch.autograd.grad(
            objective_by_hand(weights, support), [weights[n] for n in names], create_graph=second_order, retain_graph=True
        )
        moved = {n: weights[n] - params[f"step.rate.{n}"][min(step, 2)] * g for n, g in zip(names, gradients, strict=True)}
        weights = {**weights, **moved}
        points.append(weights)
    return points


@BOTH
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_each_step_has_its_rates_and_its_normalisation_and_the_last_repeats(spec: dict[str, Any], steps: int) -> None:
    learner = build(spec)
    params = draw_steps(make_params(learner), seed=1)
    tasks = [make_task(learner, shots, seed)[0] for seed, shots in enumerate([(1, 2, 1), (3, 1)])]
    state = learner.adapt(params, stack_supports(tasks), steps).state
    for lane, support in enumerate(tasks):
        for name, expected in points_by_hand(params, support, steps)[-1].items():
            ours = state[name][lane][: support.max_way] if name.startswith("class.") else state[name][lane]
            torch.testing.assert_close(ours, expected.detach(), rtol=1e-9, atol=1e-12)


@BOTH
@pytest.mark.parametrize(("progress", "weights"), [(0.0, [1 / 3, 1 / 3, 1 / 3]), (0.25, [1 / 6, 1 / 6, 2 / 3]), (0.5, [0, 0, 1])])
@pytest.mark.parametrize("first_order", [False, True])
def test_the_multi_step_loss_and_its_gradient_are_the_reference(
    spec: dict[str, Any], progress: float, weights: list[float], first_order: bool
) -> None:
    learner = build(spec, multi_step_until=0.5, first_order_until=0.9 if first_order else 0.0)
    params = draw_steps(make_params(learner), seed=1)
    tasks = [make_task(learner, shots, seed) for seed, shots in enumerate([(1, 2, 1), (2, 1, 1)])]
    batch = EpisodeBatch(
        stack_supports([task[0] for task in tasks]), torch.stack([task[1] for task in tasks]), torch.stack([task[2] for task in tasks])
    )
    assert isinstance(learner, HasMetaLoss)
    loss, _ = learner.meta_loss(params, batch, progress)

    expected = torch.zeros((), dtype=torch.float64)
    sharpness = params["answer.log_sharpness"].exp() if spec["kind"] == "classification" else 1.0
    for support, queries, answers in tasks:
        for weight, point in zip(weights, points_by_hand(params, support, 3, second_order=not first_order), strict=True):
            expected = expected + weight * outer_loss(sharpness * forward_by_hand(point, queries), answers) / len(tasks)
    torch.testing.assert_close(loss, expected)
    ours, theirs = (torch.autograd.grad(value, list(params.values()), allow_unused=True) for value in (loss, expected))
    for name, mine, other in zip(params, ours, theirs, strict=True):
        assert mine is not None, name
        torch.testing.assert_close(mine, torch.zeros_like(mine) if other is None else other, rtol=1e-8, atol=1e-10)


def test_the_meta_gradient_is_the_one_of_finite_differences() -> None:
    learner = build(CURVE)
    assert is_gradient_of_differences(learner, draw_steps(make_params(learner, 3), 3), make_task(learner, (1, 2, 1), 3))


def test_fresh_it_adapts_as_maml_without_moving_the_normalisation() -> None:
    """The weights of maml are a start for it: the sets of later steps begin as the first one."""
    learner = build(IMAGE)
    params = make_params(learner)
    support, _, _ = make_task(learner, (1, 2), 0)
    state = learner.adapt(params, support).state
    assert all(torch.equal(state[name][0], params[name]) for name in params if "norm" in name and name.startswith("body."))
    assert not torch.equal(state["body.conv1.weight"][0], params["body.conv1.weight"])


@pytest.mark.parametrize("progress", [0.0, 0.03, 0.0999, 0.1, 0.7])
def test_the_weights_of_the_steps_sum_to_one_and_early_ones_keep_the_floor_until_they_go(progress: float) -> None:
    learner = build(CURVE, inner_steps=5)
    *early, last = learner.weigh_steps(progress)
    assert sum(early) + last == pytest.approx(1)
    assert early == pytest.approx([max((1 - progress / 0.1) / 5, 0.03 / 5) if progress < 0.1 else 0] * 4)


def test_a_restart_keeps_the_normalisation_of_the_first_step() -> None:
    learner = build(IMAGE)
    params = draw_steps(make_params(learner), seed=1)
    support, _, _ = make_task(learner, (1, 2), 0)
    state = learner.adapt(params, support).state
    again = learner.restart(params, state)
    assert torch.equal(again["body.conv1.weight"], state["body.conv1.weight"][0])
    assert torch.equal(again["body.norm1.scale"], params["body.norm1.scale"])
    assert not torch.equal(state["body.norm1.scale"][0], params["body.norm1.scale"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"multi_step_until": 1.5}, r"shares of the training in \[0, 1\], got 1.5 and 0.0"),
        ({"first_order_until": -0.1}, r"shares of the training in \[0, 1\]"),
        ({"inner_steps": 1}, "inner_steps must be at least 2"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(InvalidOptions, match=words):
        build_learner({**IMAGE, **options})
