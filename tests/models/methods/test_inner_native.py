"""Inner loops in C against the steps in torch, which are the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.learner import Adaptation
from models.methods import build_learner
from models.methods.inner_loop import GradientLearner
from models.methods.maml import Maml
from models.support import Params, Support, split_state, stack_supports
from tests.models.methods.drawn_lanes import Shots, backbones, by_torch, draw_params, draw_tasks, on_threads

IN_C = ["anil", "boil", "fomaml", "maml", "metasgd", "protomaml", "reptile"]
"""The methods that are plain descent, each number of each tensor perhaps at a rate of its own."""
IN_TORCH = ["imaml", "learned-optimizer", "mamlpp"]

lanes_of_tasks = st.lists(
    st.tuples(st.lists(st.integers(1, 3), min_size=2, max_size=5).map(tuple), st.integers(0, 4)), min_size=1, max_size=4
)


def build(method: str, backbone: dict[str, Any] | None = None, shape: tuple[int, int, int] = (1, 16, 16), **options: Any) -> Any:
    network = {"kind": "conv4", "filters": 16, "groups": 4, **(backbone or {})}
    spec = {"method": method, "kind": "classification", "input_shape": list(shape), "inner_lr": 0.05, "backbone": network}
    return build_learner({**spec, **options})


def adapt_each(learner: Any, params: Params, support: Support, steps: Sequence[int]) -> Adaptation:
    found = learner.adapt_each(params, support, steps)
    assert isinstance(found, Adaptation)
    return found


def cut(adaptation: Adaptation, lane: int, support: Support, steps: int) -> list[Tensor]:
    """What a lane has of a batch's outcome: its state in the order of names, its curve, its features."""
    assert adaptation.features is not None
    state, n = split_state(adaptation.state)[lane], support.inputs.shape[1]
    curve = [adaptation.loss[lane, : steps + 1], adaptation.accuracy[lane, : steps + 1]]
    return [*(state[name] for name in sorted(state)), *curve, adaptation.features[lane, :n]]


@given(
    method=st.sampled_from(IN_C),
    backbone=backbones,
    channels=st.sampled_from([1, 3]),
    lanes=lanes_of_tasks,
    is_mean=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_lane_ends_where_torch_takes_it_alone(
    method: str, backbone: dict[str, Any], channels: int, lanes: list[tuple[Shots, int]], is_mean: bool, threads: int, seed: int
) -> None:
    shape = (channels, 17, 16)
    learner = build(method, backbone, shape, body_objective="mean" if is_mean and method != "anil" else "sum")
    params, tasks, steps = draw_params(learner, seed), draw_tasks([shots for shots, _ in lanes], seed, shape), [s for _, s in lanes]
    found = on_threads(threads, lambda: adapt_each(learner, params, stack_supports(tasks), steps))
    for lane, (task, count) in enumerate(zip(tasks, steps, strict=True)):
        wanted = by_torch(partial(learner.adapt, params, task, count))
        wanted = replace(wanted, features=learner.embed(params, task.inputs))  # without a step the reference keeps none
        for ours, reference in zip(cut(found, lane, task, count), cut(wanted, 0, task, count), strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-8, atol=1e-8)


@given(
    method=st.sampled_from(IN_C),
    downsample=st.sampled_from(["stride", "pool"]),
    lanes=lanes_of_tasks,
    threads=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_lane_is_the_same_to_the_last_bit_alone_and_beside_lanes_of_other_steps(
    method: str, downsample: str, lanes: list[tuple[Shots, int]], threads: int, seed: int
) -> None:
    shape = (1, 18, 20)  # pooled: maps of 9x10, whose squares are more than are worked on at once, and one place beyond the border
    learner, steps = build(method, {"downsample": downsample}, shape), [count for _, count in lanes]
    params, tasks = draw_params(learner, seed, torch.float32), draw_tasks([shots for shots, _ in lanes], seed, shape, torch.float32)
    together = on_threads(threads, lambda: adapt_each(learner, params, stack_supports(tasks), steps))
    for lane, (task, count) in enumerate(zip(tasks, steps, strict=True)):
        alone = on_threads(1, partial(learner.adapt, params, task, count))
        for ours, own in zip(cut(together, lane, task, count), cut(alone, 0, task, count), strict=True):
            assert torch.equal(ours, own)


def test_a_lane_that_has_left_keeps_its_last_figure_and_features_of_no_example_are_zero() -> None:
    learner, tasks = build("maml"), draw_tasks([(1, 2), (3, 3, 2)], 1)
    found = adapt_each(learner, draw_params(learner, 1), stack_supports(tasks), [1, 4])
    assert found.loss.shape == (2, 5)
    assert torch.equal(found.loss[0, 2:], found.loss[0, 1].expand(3))
    assert torch.equal(found.accuracy[0, 2:], found.accuracy[0, 1].expand(3))
    assert found.features is not None
    assert not found.features[0, 3:].any()


@pytest.mark.parametrize("method", IN_C)
def test_in_single_precision_the_way_makes_a_difference_below_a_hundred_thousandth(method: str) -> None:
    learner = build(method, {"filters": 64, "groups": 8}, (1, 28, 28), inner_lr=0.01)
    params = {name: tensor.detach() for name, tensor in learner.init(torch.Generator().manual_seed(2)).items()}
    support = stack_supports(draw_tasks([(1,) * 5, (2, 1, 1)], 2, (1, 28, 28), torch.float32))
    found, wanted = learner.adapt(params, support, 3), by_torch(lambda: learner.adapt(params, support, 3))
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-5, atol=1e-5)
    for name, tensor in wanted.state.items():
        torch.testing.assert_close(found.state[name], tensor, rtol=1e-5, atol=1e-5)


def test_an_inner_loop_that_diverges_ends_in_what_is_no_number_and_harms_no_other_lane() -> None:
    learner, tasks = build("maml", {"norm": "none"}, inner_lr=1.0), draw_tasks([(1, 1), (1, 1)], 1, dtype=torch.float32)
    params = draw_params(learner, 1, torch.float32)
    both = stack_supports([replace(tasks[0], inputs=1e30 * tasks[0].inputs), tasks[1]])
    together, alone = learner.adapt(params, both, 3), learner.adapt(params, tasks[1], 3)
    wanted = by_torch(lambda: learner.adapt(params, both, 3))
    assert torch.equal(together.loss.isfinite(), wanted.loss.isfinite())
    assert not together.loss[0].isfinite().all()
    assert not together.state["class.weight"][0].isfinite().all()
    assert torch.equal(together.state["body.conv1.weight"][1], alone.state["body.conv1.weight"][0])


@pytest.mark.parametrize("method", IN_TORCH)
def test_a_method_with_a_rule_of_its_own_takes_its_steps_in_torch(method: str) -> None:
    learner = build(method)
    assert learner.adapt_each(draw_params(learner, 1), draw_tasks([(1, 1)], 1)[0], [2]) is None


@pytest.mark.parametrize("hook", ["update", "pull", "prepare", "measure", "read", "scale", "features"])
def test_whoever_overrides_what_the_c_takes_for_granted_stays_in_torch(hook: str) -> None:
    method = type("Own", (Maml,), {hook: lambda self, *arguments, **named: getattr(GradientLearner, hook)(self, *arguments, **named)})
    learner = method("classification", build("maml").backbone)
    params, (task,) = draw_params(learner, 1), draw_tasks([(1, 2)], 1)
    assert learner.adapt_each(params, task, [2]) is None
    torch.testing.assert_close(learner.adapt(params, task, 2).loss, Maml("classification", learner.backbone).adapt(params, task, 2).loss)


def test_rates_that_are_other_tensors_in_every_step_are_left_to_torch() -> None:
    method = type("Fading", (Maml,), {"rate": lambda self, params, step, name: torch.full_like(params.get(name, torch.ones(1)), 0.1**step)})
    learner = method("classification", build("maml").backbone)
    assert learner.adapt_each(draw_params(learner, 1), draw_tasks([(1, 2)], 1)[0], [2]) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda support: replace(support, mask=support.mask.flip(1)),
        lambda support: replace(support, class_mask=support.class_mask.flip(1)),
        lambda support: replace(support, targets=support.targets + 5),
        lambda support: replace(support, targets=support.targets - 1),
    ],
)
def test_what_would_be_read_beside_a_support_set_is_refused(spoil: Callable[[Support], Support]) -> None:
    learner, support = build("maml"), stack_supports(draw_tasks([(1, 2), (1, 1, 2)], 1))
    with pytest.raises(ValueError, match="must come first"):
        learner.adapt(draw_params(learner, 1), spoil(support), 2)


def test_a_head_of_another_shape_is_refused() -> None:
    method = type(
        "Short", (Maml,), {"start_head": lambda self, params, support: (torch.zeros(1, 2, 3).double(), torch.zeros(1, 2).double())}
    )
    learner = method("classification", build("maml").backbone)
    with pytest.raises(ValueError, match="the head starts from"):
        learner.adapt(draw_params(learner, 1), draw_tasks([(1, 2)], 1)[0], 2)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_state_lies_in_nobody_elses_memory(steps: int) -> None:
    learner, support = build("maml"), stack_supports(draw_tasks([(1, 2), (1, 1, 2)], 1))
    params = draw_params(learner, 1)
    state = learner.adapt(params, support, steps).state
    others = {tensor.untyped_storage().data_ptr() for tensor in [*params.values(), support.class_mask]}
    memory = [tensor.untyped_storage().data_ptr() for tensor in state.values()]
    assert len(set(memory)) == len(memory)
    assert others.isdisjoint(memory)
    kernel = state["body.conv2.weight"]
    assert learner.backbone.lay_out({"conv2.weight": kernel})["conv2.weight"].data_ptr() == kernel.data_ptr(), "predictions would copy it"
