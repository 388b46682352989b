"""ANIL against its inner loop written out for one task, and against finite differences."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch

from models.backbones import Mlp
from models.errors import InvalidOptions
from models.methods import build_learner
from models.support import stack_supports
from tests.models.methods.tiny_tasks import descend_by_hand, is_gradient_of_differences, make_params, make_task

CLASSES = {"method": "anil", "kind": "classification", "input_shape": [3], "inner_steps": 4, "backbone": {"kind": "mlp", "hidden": [5]}}
CURVE = {"method": "anil", "kind": "regression", "input_shape": [1], "inner_steps": 3, "backbone": {"kind": "mlp", "hidden": [6]}}
BOTH = pytest.mark.parametrize("spec", [CLASSES, CURVE], ids=["classification", "regression"])


@BOTH
def test_the_head_descends_on_fixed_features(spec: dict[str, Any]) -> None:
    learner = build_learner(spec)
    params = make_params(learner)
    tasks = [make_task(learner, shots, seed)[0] for seed, shots in enumerate([(1, 2, 1), (3, 1)])]
    state = learner.adapt(params, stack_supports(tasks)).state
    prefix = "class" if spec["kind"] == "classification" else "head"
    for lane, support in enumerate(tasks):
        weights = dict(params)
        if prefix == "class":
            zeros = torch.zeros(support.max_way, 6, dtype=torch.float64)
            weights |= {"class.weight": zeros[:, :5].clone(), "class.bias": zeros[:, 5].clone()}
        expected = descend_by_hand(weights, {f"{prefix}.weight", f"{prefix}.bias"}, support, spec["inner_steps"], lambda name: 0.1)
        for name in (f"{prefix}.weight", f"{prefix}.bias"):
            ours = state[name][lane][: support.max_way] if prefix == "class" else state[name][lane]
            torch.testing.assert_close(ours, expected[name].detach(), rtol=1e-9, atol=1e-12)


@BOTH
@pytest.mark.parametrize("seed", [3, 4])
def test_the_meta_gradient_is_the_one_of_finite_differences(spec: dict[str, Any], seed: int) -> None:
    learner = build_learner(spec)
    assert is_gradient_of_differences(learner, make_params(learner, seed), make_task(learner, (1, 2, 1), seed))


def test_the_state_is_a_head_and_the_body_sees_the_support_set_once() -> None:
    learner = build_learner(CLASSES)
    params = make_params(learner)
    support, _, _ = make_task(learner, (1, 2), seed=0)
    with patch.object(Mlp, "features", autospec=True, side_effect=Mlp.features) as features:
        state = learner.adapt(params, support).state
    assert features.call_count == 1
    assert set(state) == {"class.weight", "class.bias", "class.mask"}


def test_an_objective_of_the_body_is_refused() -> None:
    with pytest.raises(InvalidOptions, match="anil does not move the body"):
        build_learner({**CLASSES, "body_objective": "mean"})
