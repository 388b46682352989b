"""MAML against a slow reference: one task at a time, every tensor moved at every step, plain autograd, float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.episodes import EpisodeBatch
from models.errors import InvalidOptions
from models.methods import build_learner
from models.methods.maml import Maml
from models.support import Params, Support, stack_supports
from tests.models.methods.tiny_tasks import make_params, make_task, outer_loss

IMAGE = {"method": "maml", "kind": "classification", "input_shape": [1, 16, 16], "inner_steps": 3, "inner_lr": 0.07}
STRIDED = {**IMAGE, "backbone": {"kind": "conv4", "filters": 4, "groups": 2}}
POOLED = {**IMAGE, "backbone": {"kind": "conv4", "filters": 4, "groups": 2, "downsample": "pool"}}
CURVE = {
    "method": "maml",
    "kind": "regression",
    "input_shape": [1],
    "inner_steps": 3,
    "inner_lr": 0.05,
    "backbone": {"kind": "mlp", "hidden": [7, 5]},
}


def reference_forward(spec: dict[str, Any], weights: Params, inputs: Tensor) -> Tensor:
    """The network written out with torch's own functions, for one task."""
    if spec["kind"] == "regression":
        hidden = inputs
        for layer in (1, 2):
            hidden = F.relu(F.linear(hidden, weights[f"body.linear{layer}.weight"], weights[f"body.linear{layer}.bias"]))
        return F.linear(hidden, weights["head.weight"], weights["head.bias"])
    maps = inputs
    pooled = spec["backbone"].get("downsample") == "pool"
    for block in (1, 2, 3, 4):
        maps = F.conv2d(maps, weights[f"body.conv{block}.weight"], padding=1, stride=1 if pooled else 2)
        maps = F.relu(F.group_norm(maps, 2, weights[f"body.norm{block}.scale"], weights[f"body.norm{block}.shift"]))
        maps = F.max_pool2d(maps, 2) if pooled else maps
    features = maps.flatten(1)
    return F.linear(features * (20 / features.shape[1]) ** 0.5, weights["class.weight"], weights["class.bias"])


def reference_objective(spec: dict[str, Any], weights: Params, support: Support) -> Tensor:
    outputs, targets = reference_forward(spec, weights, support.inputs[0]), support.targets[0]
    if spec["kind"] == "regression":
        return F.mse_loss(outputs, targets)
    return sum((F.cross_entropy(outputs[targets == c], targets[targets == c]) for c in range(support.max_way)), torch.zeros(()))


def reference_adapt(spec: dict[str, Any], params: Params, support: Support, second_order: bool = True) -> Params:
    weights = {name: tensor for name, tensor in params.items() if name != "answer.log_sharpness"}
    if spec["kind"] == "classification":
        width = build_learner(spec).backbone.feature_dim  # type: ignore[attr-defined]
        weights["class.weight"] = torch.zeros(support.max_way, width, dtype=torch.float64, requires_grad=True)
        weights["class.bias"] = torch.zeros(support.max_way, dtype=torch.float64, requires_grad=True)
    for _ in range(spec["inner_steps"]):
        gradients = torch.autograd.grad(reference_objective(spec, weights, support), list(weights.values()), create_graph=second_order)
        weights = {name: weights[name] - spec["inner_lr"] * g for name, g in zip(weights, gradients, strict=True)}
    return weights


SPECS = pytest.mark.parametrize("spec", [STRIDED, POOLED, CURVE], ids=["strided", "pooled", "regression"])


@SPECS
def test_adapted_weights_equal_the_reference(spec: dict[str, Any]) -> None:
    learner = build_learner(spec)
    params = make_params(learner)
    tasks = [make_task(learner, shots, seed)[0] for seed, shots in enumerate([(1, 1, 1), (2, 1), (3, 1, 2, 1)])]
    state = learner.adapt(params, stack_supports(tasks)).state
    for lane, support in enumerate(tasks):
        for name, expected in reference_adapt(spec, params, support, second_order=False).items():
            ours = state[name][lane][: support.max_way] if name.startswith("class.") else state[name][lane]
            torch.testing.assert_close(ours, expected.detach(), rtol=1e-9, atol=1e-11)


@SPECS
@pytest.mark.parametrize("first_order", [False, True])
def test_the_outer_gradient_equals_the_reference(spec: dict[str, Any], first_order: bool) -> None:
    learner = build_learner({**spec, "first_order": first_order})
    params = make_params(learner)
    tasks = [make_task(learner, shots, seed) for seed, shots in enumerate([(1, 2, 1), (2, 1, 1)])]
    state = learner.adapt(params, stack_supports([support for support, _, _ in tasks]), differentiable=True).state
    outputs = learner.predict(params, state, torch.stack([queries for _, queries, _ in tasks]))
    ours = torch.autograd.grad(sum(outer_loss(outputs[i], tasks[i][2]) for i in (0, 1)), list(params.values()))  # type: ignore[arg-type]

    expected = torch.zeros((), dtype=torch.float64)
    for support, queries, answers in tasks:
        weights = reference_adapt(spec, params, support, second_order=not first_order)
        sharpness = params["answer.log_sharpness"].exp() if spec["kind"] == "classification" else 1.0
        expected = expected + outer_loss(sharpness * reference_forward(spec, weights, queries), answers)
    for mine, theirs in zip(ours, torch.autograd.grad(expected, list(params.values())), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


def test_the_outer_gradient_equals_finite_differences() -> None:
    learner = build_learner({**CURVE, "backbone": {"kind": "mlp", "hidden": [3]}})
    params = make_params(learner, seed=3)
    support, queries, answers = make_task(learner, (1, 1, 1), seed=5)

    def loss(*tensors: Tensor) -> Tensor:
        values = dict(zip(params, tensors, strict=True))
        state = learner.adapt(values, support, differentiable=True).state
        return outer_loss(learner.predict(values, state, queries.unsqueeze(0))[0], answers)

    assert torch.autograd.gradcheck(loss, tuple(params.values()), eps=1e-6, atol=1e-6)


def test_second_order_and_first_order_gradients_differ() -> None:
    gradients = []
    for first_order in (False, True):
        learner = build_learner({**CURVE, "first_order": first_order})
        params = make_params(learner)
        support, queries, answers = make_task(learner, (1, 2, 1), seed=1)
        state = learner.adapt(params, support, differentiable=True).state
        loss = outer_loss(learner.predict(params, state, queries.unsqueeze(0))[0], answers)
        gradients.append(torch.autograd.grad(loss, list(params.values()))[0])
    assert not torch.allclose(gradients[0], gradients[1])


def test_the_meta_loss_is_the_mean_over_the_judged_steps() -> None:
    learner = build_learner({**CURVE, "judged_steps": [1, 3]})
    assert isinstance(learner, Maml)
    params = make_params(learner)
    support, queries, answers = make_task(learner, (1, 2, 1), seed=1)
    loss, _ = learner.meta_loss(params, EpisodeBatch(support, queries.unsqueeze(0), answers.unsqueeze(0)), 0.0)
    each = []
    for steps in (1, 3):
        state = learner.adapt(params, support, steps, differentiable=True).state
        each.append(outer_loss(learner.predict(params, state, queries.unsqueeze(0))[0], answers))
    torch.testing.assert_close(loss, (each[0] + each[1]) / 2)
    ours, theirs = (torch.autograd.grad(value, list(params.values())) for value in (loss, (each[0] + each[1]) / 2))
    torch.testing.assert_close(ours, theirs)


def test_no_steps_leave_every_class_equally_likely() -> None:
    learner = build_learner(STRIDED)
    support, queries, _ = make_task(learner, (1, 2), seed=0)
    params = make_params(learner)
    state = learner.adapt(params, support, steps=0).state
    torch.testing.assert_close(
        learner.predict(params, state, queries.unsqueeze(0)).softmax(-1), torch.full((1, 2, 2), 0.5, dtype=torch.float64)
    )


@pytest.mark.parametrize("options", [{"inner_steps": 0}, {"inner_lr": 0.0}, {"inner_lr": float("nan")}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InvalidOptions, match="inner_steps >= 1 and inner_lr > 0"):
        build_learner({**STRIDED, **options})


def test_judged_steps_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidOptions, match="judged_steps must be whole numbers of at least 1"):
        build_learner({**CURVE, "judged_steps": [0, 5]})


def test_negative_steps_are_refused() -> None:
    learner = build_learner(CURVE)
    with pytest.raises(InvalidOptions, match="at least 0"):
        learner.adapt(make_params(learner), make_task(learner, (1, 1), 0)[0], steps=-1)
