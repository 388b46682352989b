from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.backbones import Conv4
from models.methods import build_learner
from models.support import Params, Support, make_support, stack_supports

FAMILY = ["maml", "fomaml", "boil", "protomaml", "metasgd", "learned-optimizer", "mamlpp", "imaml", "reptile"]
"""The methods whose inner loop moves a body."""


def build(method: str, **options: Any) -> Any:
    backbone = {"kind": "conv4", "filters": 8, "groups": 4}
    spec = {"method": method, "kind": "classification", "input_shape": [1, 16, 16], "inner_lr": 0.05, "backbone": backbone}
    return build_learner({**spec, **options})


def draw_tasks(ways: tuple[int, ...], shots: int) -> Support:
    """Ragged: as many lanes as ways."""
    generator = torch.Generator().manual_seed(7)
    tasks = [make_support(torch.rand(n * shots, 1, 16, 16, generator=generator).double(), torch.arange(n).repeat(shots), n) for n in ways]
    return stack_supports(tasks)


def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conv4, "find_native", lambda self, inputs: None)


@pytest.mark.parametrize("body_objective", ["sum", "mean"])
@pytest.mark.parametrize("method", FAMILY)
def test_native_lanes_adapt_to_what_torch_adapts_to(method: str, body_objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(method, body_objective=body_objective)
    generator = torch.Generator().manual_seed(1)
    params = {name: t.double() + 0.05 * torch.randn(t.shape, generator=generator) for name, t in learner.init(generator).items()}
    support = draw_tasks((3, 5, 2), 2)
    native = learner.adapt(params, support, 4)
    by_torch(monkeypatch)
    reference = learner.adapt(params, support, 4)
    torch.testing.assert_close(native.loss, reference.loss)
    torch.testing.assert_close(native.accuracy, reference.accuracy)
    for name, tensor in reference.state.items():
        torch.testing.assert_close(native.state[name], tensor)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_adapted_weights_are_nobody_elses(steps: int) -> None:
    learner = build("maml")
    params = learner.init(torch.Generator().manual_seed(0))
    support = draw_tasks((3, 2), 1)
    state = learner.adapt(params, replace(support, inputs=support.inputs.float()), steps).state
    memory = {tensor.untyped_storage().data_ptr() for tensor in params.values()}
    for name, tensor in state.items():
        assert tensor.untyped_storage().data_ptr() not in memory, name


def test_steps_that_move_only_the_head_look_at_the_support_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    features = Conv4.features

    def count(self: Conv4, params: Params, inputs: Tensor) -> Tensor:
        seen.append(1)
        return features(self, params, inputs)

    monkeypatch.setattr(Conv4, "features", count)
    by_torch(monkeypatch)
    for method, expected in (("anil", 1), ("maml", 5)):  # five steps: the first two share a look, and the last loss needs one
        learner, support = build(method, inner_steps=5), draw_tasks((3, 5), 1)
        learner.adapt(learner.init(torch.Generator().manual_seed(0)), replace(support, inputs=support.inputs.float()))
        assert len(seen) == expected, method
        seen.clear()
