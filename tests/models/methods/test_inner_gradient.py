from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from models.backbones import Conv4
from models.methods import build_learner
from models.support import Support, make_support, stack_supports

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


def without_a_trace(learner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conv4, "can_trace", property(lambda self: False))


@pytest.mark.parametrize("body_objective", ["sum", "mean"])
@pytest.mark.parametrize("method", FAMILY)
def test_tracing_adapts_to_what_autograd_adapts_to(method: str, body_objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = build(method, body_objective=body_objective)
    generator = torch.Generator().manual_seed(1)
    params = {name: t.double() + 0.05 * torch.randn(t.shape, generator=generator) for name, t in learner.init(generator).items()}
    support = draw_tasks((3, 5, 2), 2)
    traced = learner.adapt(params, support, 4)
    without_a_trace(learner, monkeypatch)
    graphed = learner.adapt(params, support, 4)
    torch.testing.assert_close(traced.loss, graphed.loss)
    torch.testing.assert_close(traced.accuracy, graphed.accuracy)
    for name, tensor in graphed.state.items():
        torch.testing.assert_close(traced.state[name], tensor)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_adapted_weights_are_laid_out_plainly_and_are_nobody_elses(steps: int) -> None:
    learner = build("maml")
    params = learner.init(torch.Generator().manual_seed(0))
    support = draw_tasks((3, 2), 1)
    state = learner.adapt(params, replace(support, inputs=support.inputs.float()), steps).state
    memory = {tensor.untyped_storage().data_ptr() for tensor in params.values()}
    for name, tensor in state.items():
        assert tensor.is_contiguous(), name
        assert tensor.untyped_storage().data_ptr() not in memory, name
