"""Where a learner's parameters are, there it works: nothing stays behind on the host, and nobody waits for a number from the device.

It takes no GPU to hold this. Tensors of torch's `meta` device have a shape and no numbers: whatever asks for one fails, and a second device
in any operator is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.learner import Adaptation, Embeds, Explains
from models.support import Params, Support, stack_supports
from tests.laws.conftest import World, make_world
from tests.laws.learners import SPECS

ELSEWHERE = torch.device("meta")
ASKING = {name for name in SPECS if name.startswith(("svm", "tree-cart"))}
"""Those that ask the device for numbers: whether a descent has converged, and where a tree is cut, for such trees grow on the host."""


class OneDevice(TorchDispatchMode):
    """Refuses an operator whose tensors are not of one device; numbers (tensors without an axis) may come from anywhere."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        devices = {each.device.type for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor) and each.dim()}
        assert len(devices) <= 1, f"{operator} meets tensors of {sorted(devices)}"
        return operator(*args, **(kwargs or {}))


def send(world: World) -> tuple[Params, Support, Tensor]:
    """Meta-parameters, two ragged support sets, and queries (2, 3, *input_shape), all of them elsewhere."""
    support = stack_supports([world.support(2, (1, 1)), world.support(4, (2, 1, 3, 1))])
    queries = torch.stack([world.inputs(3), world.inputs(3)])
    return {name: tensor.to(ELSEWHERE) for name, tensor in world.params.items()}, support.to(ELSEWHERE), queries.to(ELSEWHERE)


def use(world: World, params: Params, support: Support, queries: Tensor) -> Sequence[Tensor]:
    """Everything that a service asks of a learner."""
    learner = world.learner
    adaptation = learner.adapt(params, support)
    made = [*list_tensors(adaptation), learner.predict(params, adaptation.state, queries)]
    if isinstance(learner, Explains):
        made.append(learner.explain(params, adaptation.state, support, queries))
    if isinstance(learner, Embeds):
        made.append(learner.embed(params, support.inputs))
    return made


def differentiate(world: World, params: Params, support: Support, queries: Tensor) -> Sequence[Tensor]:
    """What a step of meta-training takes: the gradient through the adaptation."""
    adaptation = world.learner.adapt(params, support, differentiable=True)
    answers = world.learner.predict(params, adaptation.state, queries)
    gradients = torch.autograd.grad(answers.sum(), list(params.values()), allow_unused=True)
    return [*list_tensors(adaptation), *(gradient for gradient in gradients if gradient is not None)]


def list_tensors(adaptation: Adaptation) -> list[Tensor]:
    features = [] if adaptation.features is None else [adaptation.features]
    return [*adaptation.state.values(), adaptation.loss, adaptation.accuracy, *features]


Work = Callable[[World, Params, Support, Tensor], Sequence[Tensor]]


def hold(world: World, work: Work) -> None:
    """Fails unless the work needs nothing but what is where the parameters are, and leaves there what it makes."""
    params, support, queries = send(world)
    for tensor in params.values():
        tensor.requires_grad_(work is differentiate)
    with OneDevice(), torch.set_grad_enabled(work is differentiate):
        made = work(world, params, support, queries)
    assert {tensor.device for tensor in made} == {ELSEWHERE}


@pytest.mark.parametrize("work", [use, differentiate])
@pytest.mark.parametrize("name", sorted(set(SPECS) - ASKING))
def test_all_work_is_done_where_the_parameters_are(name: str, work: Work) -> None:
    hold(make_world(name), work)


@pytest.mark.parametrize("name", sorted(ASKING))
def test_nobody_is_excused_without_need(name: str) -> None:
    world = make_world(name)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta tensor"), OneDevice():
        use(world, *send(world))


def test_a_tensor_of_another_device_is_refused() -> None:
    with OneDevice(), pytest.raises(AssertionError, match="cpu"):
        torch.zeros(3, device=ELSEWHERE).index_select(0, torch.zeros(1, dtype=torch.long))
