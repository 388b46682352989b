"""Meta-SGD against its inner loop written out for one task, and against finite differences in weights and rates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.methods import build_learner
from models.support import Params, stack_supports
from tests.models.methods.tiny_tasks import descend_by_hand, is_gradient_of_differences, make_params, make_task

CLASSES = {"method": "metasgd", "kind": "classification", "input_shape": [3], "inner_steps": 3, "backbone": {"kind": "mlp", "hidden": [5]}}
CURVE = {"method": "metasgd", "kind": "regression", "input_shape": [1], "inner_steps": 2, "backbone": {"kind": "mlp", "hidden": [6]}}
BOTH = pytest.mark.parametrize("spec", [CLASSES, CURVE], ids=["classification", "regression"])


def draw_rates(params: Params, seed: int) -> Params:
    """Rates all different, some of them negative, as after a meta-training."""
    generator = torch.Generator().manual_seed(seed)

    def spread(tensor: Tensor) -> Tensor:
        return (tensor.detach() + 0.1 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)).requires_grad_()

    return {name: spread(tensor) if name.startswith("rate.") else tensor for name, tensor in params.items()}


@BOTH
def test_every_weight_descends_by_its_own_rate(spec: dict[str, Any]) -> None:
    learner = build_learner(spec)
    params = draw_rates(make_params(learner), seed=1)
    tasks = [make_task(learner, shots, seed)[0] for seed, shots in enumerate([(1, 2, 1), (3, 1)])]
    state = learner.adapt(params, stack_supports(tasks)).state
    for lane, support in enumerate(tasks):
        weights = {name: tensor for name, tensor in params.items() if name.startswith(("body.", "head."))}
        if spec["kind"] == "classification":
            zeros = torch.zeros(support.max_way, 6, dtype=torch.float64)
            weights |= {"class.weight": zeros[:, :5].clone(), "class.bias": zeros[:, 5].clone()}
        expected = descend_by_hand(weights, set(weights), support, spec["inner_steps"], lambda name: params["rate." + name])
        for name in weights:
            ours = state[name][lane][: support.max_way] if name.startswith("class.") else state[name][lane]
            torch.testing.assert_close(ours, expected[name].detach(), rtol=1e-9, atol=1e-12)


@BOTH
@pytest.mark.parametrize("seed", [3, 4])
def test_the_meta_gradient_is_the_one_of_finite_differences(spec: dict[str, Any], seed: int) -> None:
    learner = build_learner(spec)
    assert is_gradient_of_differences(learner, draw_rates(make_params(learner, seed), seed), make_task(learner, (1, 2, 1), seed))


@pytest.mark.parametrize("n_way", [2, 5])
def test_fresh_rates_adapt_as_maml_does_with_any_number_of_ways(n_way: int) -> None:
    learner, maml = build_learner(CLASSES), build_learner({**CLASSES, "method": "maml"})
    params = make_params(learner)
    support, _, _ = make_task(learner, (1,) * n_way, seed=0)
    ours, theirs = learner.adapt(params, support).state, maml.adapt(params, support).state
    assert ours.keys() == theirs.keys()
    for name in theirs:
        # inner_lr is rounded to float32 in the rates, so that 0.1 is 0.1 within 1.5e-8
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-7)


def test_rates_of_the_class_head_know_no_class() -> None:
    params = make_params(build_learner(CLASSES))
    assert params["rate.class.weight"].shape == (5,)
    assert params["rate.class.bias"].shape == ()
    assert {name.removeprefix("rate.") for name in params if name.startswith("rate.body.")} == {n for n in params if n.startswith("body.")}
