"""BOIL against its inner loop written out for one task, and against finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.methods import build_learner
from models.support import stack_supports
from tests.models.methods.tiny_tasks import descend_by_hand, is_gradient_of_differences, make_params, make_task, prototypes_by_hand

CLASSES = {
    "method": "boil",
    "kind": "classification",
    "input_shape": [3],
    "inner_steps": 3,
    "inner_lr": 0.01,
    "backbone": {"kind": "mlp", "hidden": [5]},
}
CURVE = {"method": "boil", "kind": "regression", "input_shape": [1], "inner_steps": 3, "backbone": {"kind": "mlp", "hidden": [6]}}
BODY = {"body.linear1.weight", "body.linear1.bias"}
BOTH = pytest.mark.parametrize("spec", [CLASSES, CURVE], ids=["classification", "regression"])


@BOTH
def test_the_body_descends_under_a_fixed_head(spec: dict[str, Any]) -> None:
    learner = build_learner(spec)
    params = make_params(learner)
    tasks = [make_task(learner, shots, seed)[0] for seed, shots in enumerate([(1, 2, 1), (3, 1)])]
    state = learner.adapt(params, stack_supports(tasks)).state
    for lane, support in enumerate(tasks):
        weights = {name: tensor for name, tensor in params.items() if name != "answer.log_sharpness"}
        if spec["kind"] == "classification":
            weights["class.weight"], weights["class.bias"] = prototypes_by_hand(params, support)
            torch.testing.assert_close(state["class.weight"][lane, : support.max_way], weights["class.weight"].detach())
        expected = descend_by_hand(weights, BODY, support, 3, lambda name: spec.get("inner_lr", 0.1))
        for name in BODY:
            torch.testing.assert_close(state[name][lane], expected[name].detach(), rtol=1e-9, atol=1e-12)


def test_a_head_of_regression_is_no_part_of_the_state() -> None:
    learner = build_learner(CURVE)
    assert set(learner.adapt(make_params(learner), make_task(learner, (1, 1), 0)[0]).state) == BODY


@BOTH
@pytest.mark.parametrize("seed", [3, 4])
def test_the_meta_gradient_is_the_one_of_finite_differences(spec: dict[str, Any], seed: int) -> None:
    learner = build_learner(spec)
    assert is_gradient_of_differences(learner, make_params(learner, seed), make_task(learner, (1, 2, 1), seed))
