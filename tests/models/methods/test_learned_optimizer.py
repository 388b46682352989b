"""The learned optimizer against its update rule written out for one task, and against finite differences in all it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.errors import InvalidOptions
from models.methods import build_learner
from models.support import Params, Support, stack_supports
from tests.models.methods.tiny_tasks import is_gradient_of_differences, make_params, make_task, objective_by_hand

CLASSES = {
    "method": "learned-optimizer",
    "kind": "classification",
    "input_shape": [3],
    "inner_steps": 4,
    "backbone": {"kind": "mlp", "hidden": [5]},
}
CURVE = {**CLASSES, "kind": "regression", "input_shape": [1], "inner_steps": 3}
BOTH = pytest.mark.parametrize("spec", [CLASSES, CURVE], ids=["classification", "regression"])


MIDDLE = {"log_rate": -2.0, "logit_momentum": 0.0, "logit_decay": -1.0}


def draw_optimizer(params: Params, seed: int) -> Params:
    """Rates, momenta and decays all different, as after a meta-training; momenta around one half, decays around one quarter."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str) -> Tensor:
        return (MIDDLE[name.split(".")[1]] + 0.3 * torch.randn((), generator=generator, dtype=torch.float64)).requires_grad_()

    return {name: draw(name) if name.startswith("optimizer.") else tensor for name, tensor in params.items()}


def adapt_by_hand(params: Params, support: Support, steps: int) -> Params:
    """Every tensor at every step, with numbers instead of tensors for the optimizer's."""
    start = {name: tensor.detach() for name, tensor in params.items() if name.startswith(("body.", "head."))}
    if support.max_way:
        start |= {"class.weight": torch.zeros(support.max_way, 5).double(), "class.bias": torch.zeros(support.max_way).double()}
    weights, velocity = dict(start), {name: torch.zeros_like(tensor) for name, tensor in start.items()}
    for _ in range(steps):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
        gradients = dict(zip(leaves, torch.autograd.grad(objective_by_hand(leaves, support), list(leaves.values())), strict=True))
        for name in weights:
            rate = params[f"optimizer.log_rate.{name}"].exp().item()
            momentum = 1 / (1 + (-params[f"optimizer.logit_momentum.{name}"]).exp().item())
            decay = 1 / (1 + (-params[f"optimizer.logit_decay.{name}"]).exp().item())
            velocity[name] = momentum * velocity[name] + gradients[name]
            weights[name] = weights[name] - decay * (weights[name] - start[name]) - rate * velocity[name]
    return weights


@BOTH
def test_every_tensor_moves_by_its_own_rate_momentum_and_decay(spec: dict[str, Any]) -> None:
    learner = build_learner(spec)
    params = draw_optimizer(make_params(learner), seed=1)
    tasks = [make_task(learner, shots, seed)[0] for seed, shots in enumerate([(1, 2, 1), (3, 1)])]
    state = learner.adapt(params, stack_supports(tasks)).state
    for lane, support in enumerate(tasks):
        for name, expected in adapt_by_hand(params, support, spec["inner_steps"]).items():
            ours = state[name][lane][: support.max_way] if name.startswith("class.") else state[name][lane]
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@BOTH
def test_the_meta_gradient_is_the_one_of_finite_differences(spec: dict[str, Any]) -> None:
    learner = build_learner(spec)
    assert is_gradient_of_differences(learner, draw_optimizer(make_params(learner, 3), 3), make_task(learner, (1, 2, 1), 3))


@BOTH
def test_each_of_the_three_matters_to_every_tensor(spec: dict[str, Any]) -> None:
    learner = build_learner(spec)
    params = draw_optimizer(make_params(learner, 3), 3)
    support, _, _ = make_task(learner, (1, 2, 1), 3)
    before = learner.adapt(params, support).state
    for name in [name for name in params if name.startswith("optimizer.")]:
        moved = name.split(".", 2)[2]
        after = learner.adapt({**params, name: params[name] + 1}, support).state
        assert not torch.allclose(before[moved], after[moved], rtol=1e-4), name


@BOTH
def test_without_momentum_and_decay_it_is_maml(spec: dict[str, Any]) -> None:
    learner, maml = build_learner(spec), build_learner({**spec, "method": "maml"})
    params = make_params(learner)
    plain = {name: torch.full_like(t, -60) if ".logit_" in name else t for name, t in params.items()}
    support, _, _ = make_task(learner, (1, 2, 1), seed=0)
    ours, theirs = learner.adapt(plain, support).state, maml.adapt(params, support).state
    assert ours.keys() == theirs.keys()  # the velocity is not in the state
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-7)  # inner_lr is rounded to float32


def test_full_decay_forgets_all_steps_but_the_last() -> None:
    learner = build_learner({**CURVE, "inner_lr": 0.05})
    params = make_params(learner)
    forgetful = {name: torch.full_like(t, 60) if "logit_decay" in name else t - 60 * ("momentum" in name) for name, t in params.items()}
    support, _, _ = make_task(learner, (1, 2, 1), seed=0)
    way = learner.adapt(forgetful, support, steps=6).state["head.bias"][0] - params["head.bias"]
    slope = torch.autograd.grad(objective_by_hand({n: t for n, t in params.items() if "optimizer" not in n}, support), params["head.bias"])
    torch.testing.assert_close(way, -0.05 * slope[0], rtol=0.5, atol=0)  # one step's length, not six


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"momentum": 1.0}, r"momentum and weight_decay must be in \(0, 1\)"),
        ({"weight_decay": 0.0}, r"momentum and weight_decay must be in \(0, 1\)"),
        ({"inner_steps": 1}, "inner_steps must be at least 2"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(InvalidOptions, match=words):
        build_learner({**CLASSES, **options})
