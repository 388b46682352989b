"""Heads in closed form in C against those in torch, which are the reference."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.backbones import Conv4
from models.learner import Adaptation
from models.methods import build_learner, closed_native
from models.support import Params, Support, split_state, stack_supports
from tests.models.methods.drawn_lanes import Shots, backbones, by_torch, draw_params, draw_tasks, on_threads

METHODS = ["protonet", "ridge", "gaussian"]
"""The last is ridge regression by a Gaussian kernel."""

pytestmark = pytest.mark.skipif(
    Conv4((1, 16, 16)).find_native(torch.zeros(1, 1, 1, 16, 16)) is None, reason="SKIPPED-COMPILER: there is one path only"
)

lanes_of_shots = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple), min_size=1, max_size=4)


def build(method: str, backbone: dict[str, Any] | None = None, shape: tuple[int, int, int] = (1, 16, 16), **options: Any) -> Any:
    network = {"kind": "conv4", "filters": 16, "groups": 4, **(backbone or {})}
    if method == "gaussian":
        method, options = "ridge", {**options, "kernel": "gaussian"}
    return build_learner({"method": method, "kind": "classification", "input_shape": list(shape), "backbone": network, **options})


def cut(adaptation: Adaptation, lane: int, support: Support) -> list[Tensor]:
    """What a lane has of a batch's outcome: its state in the order of names, its curve, its features."""
    assert adaptation.features is not None
    state, n = split_state(adaptation.state)[lane], support.inputs.shape[1]
    return [*(state[name] for name in sorted(state)), adaptation.loss[lane], adaptation.accuracy[lane], adaptation.features[lane, :n]]


def is_in_c(learner: Any, params: Params, support: Support) -> bool:
    """Whether the C found the heads: it alone leaves zeros where there is no example, where torch looks at an empty image."""
    features = learner.adapt(params, support).features
    return not features[~support.mask].any()


@given(
    method=st.sampled_from(METHODS),
    backbone=backbones,
    channels=st.sampled_from([1, 3]),
    lanes=lanes_of_shots,
    threads=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_lane_has_the_head_that_torch_finds_for_it_alone(
    method: str, backbone: dict[str, Any], channels: int, lanes: list[Shots], threads: int, seed: int
) -> None:
    shape = (channels, 17, 16)
    learner = build(method, backbone, shape)
    params, tasks = draw_params(learner, seed), draw_tasks(lanes, seed, shape)
    found = on_threads(threads, lambda: learner.adapt(params, stack_supports(tasks)))
    for lane, task in enumerate(tasks):
        wanted = by_torch(partial(learner.adapt, params, task))
        for ours, reference in zip(cut(found, lane, task), cut(wanted, 0, task), strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-8, atol=1e-8)


@given(
    method=st.sampled_from(METHODS),
    downsample=st.sampled_from(["stride", "pool"]),
    lanes=lanes_of_shots,
    threads=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_lane_is_the_same_to_the_last_bit_alone_and_beside_others(
    method: str, downsample: str, lanes: list[Shots], threads: int, seed: int
) -> None:
    shape = (1, 18, 20)
    learner = build(method, {"downsample": downsample}, shape)
    params, tasks = draw_params(learner, seed, torch.float32), draw_tasks(lanes, seed, shape, torch.float32)
    together = on_threads(threads, lambda: learner.adapt(params, stack_supports(tasks)))
    for lane, task in enumerate(tasks):
        alone = on_threads(1, partial(learner.adapt, params, task))
        for ours, own in zip(cut(together, lane, task), cut(alone, 0, task), strict=True):
            assert torch.equal(ours, own)


@pytest.mark.parametrize("count", [15, 16, 17, 40])
@pytest.mark.parametrize("ways", [1, 2, 9])
def test_equations_between_examples_and_between_numbers_of_a_feature_have_the_same_solution(count: int, ways: int) -> None:
    learner = build("ridge", {"downsample": "pool"})
    assert learner.backbone.feature_dim == 16
    task = draw_tasks([(count // ways + count % ways, *(count // ways for _ in range(ways - 1)))], count)[0]
    params = draw_params(learner, 3)
    found, wanted = learner.adapt(params, task), by_torch(lambda: learner.adapt(params, task))
    for ours, reference in zip(cut(found, 0, task), cut(wanted, 0, task), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("penalty", [1e-6, 1e6])
def test_a_penalty_of_any_size_is_solved_with(penalty: float) -> None:
    learner, (task,) = build("ridge"), draw_tasks([(3, 2, 4)], 1)
    params = draw_params(learner, 1) | {"head.log_penalty": torch.tensor(penalty).log().double()}
    found, wanted = learner.adapt(params, task), by_torch(lambda: learner.adapt(params, task))
    torch.testing.assert_close(found.state["class.weight"], wanted.state["class.weight"], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("downsample", ["stride", "pool"])
def test_in_single_precision_the_way_makes_a_difference_below_a_hundred_thousandth(method: str, downsample: str) -> None:
    learner = build(method, {"filters": 64, "groups": 8, "downsample": downsample}, (1, 28, 28))
    params = learner.init(torch.Generator().manual_seed(2))
    support = stack_supports(draw_tasks([(1,) * 5, (2, 1, 1), (5,) * 5], 2, (1, 28, 28), torch.float32))
    found, wanted = learner.adapt(params, support), by_torch(lambda: learner.adapt(params, support))
    assert is_in_c(learner, params, support)
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.accuracy, wanted.accuracy)
    for name, tensor in wanted.state.items():
        torch.testing.assert_close(found.state[name], tensor, rtol=1e-5, atol=1e-5)


def test_prototypes_of_what_is_no_number_are_none_and_harm_no_other_lane() -> None:
    learner, tasks = build("protonet"), draw_tasks([(1, 2), (2, 2)], 1)
    params = draw_params(learner, 1)
    both = stack_supports([replace(tasks[0], inputs=tasks[0].inputs * torch.nan), tasks[1]])
    found, wanted = learner.adapt(params, both), by_torch(lambda: learner.adapt(params, both))
    torch.testing.assert_close(found.loss, wanted.loss, equal_nan=True)
    torch.testing.assert_close(found.accuracy, wanted.accuracy)
    assert found.loss[:, 0].isfinite().tolist() == [False, True]
    assert torch.equal(found.state["class.prototypes"][1], learner.adapt(params, tasks[1]).state["class.prototypes"][0])


@pytest.mark.parametrize("method", ["ridge", "gaussian"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_where_ridge_regression_has_no_solution_torch_says_so(method: str, number: float) -> None:
    learner, tasks = build(method), draw_tasks([(1, 2), (2, 2)], 1)
    both = stack_supports([tasks[0], replace(tasks[1], inputs=tasks[1].inputs + number)])
    with pytest.raises(RuntimeError, match=r"linalg\.cholesky"):
        learner.adapt(draw_params(learner, 1), both)


@pytest.mark.parametrize("method", METHODS)
def test_examples_behind_padding_and_a_class_of_none_are_left_to_torch(method: str) -> None:
    learner = build(method)
    params, both = draw_params(learner, 1), stack_supports(draw_tasks([(1, 2), (3, 3)], 1))
    assert is_in_c(learner, params, both)
    behind = Support(both.inputs.flip(1), both.targets.flip(1), both.mask.flip(1), both.class_mask)
    absent = replace(both, targets=both.targets + 1)
    assert not is_in_c(learner, params, behind)
    found, wanted = learner.adapt(params, behind), by_torch(lambda: learner.adapt(params, behind))
    for name, tensor in wanted.state.items():
        torch.testing.assert_close(found.state[name], tensor)
    with pytest.raises((RuntimeError, IndexError)):
        learner.adapt(params, absent)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_to_be_differentiated_is_left_to_torch(method: str) -> None:
    learner, (task,) = build(method), draw_tasks([(1, 2)], 1)
    params = {name: tensor.requires_grad_() for name, tensor in draw_params(learner, 1).items()}
    with_graph, without = learner.adapt(params, task, differentiable=True), learner.adapt(params, task)
    for name, tensor in with_graph.state.items():
        if tensor.is_floating_point():
            assert tensor.requires_grad
            assert not without.state[name].requires_grad
            torch.testing.assert_close(without.state[name], tensor.detach())


def test_values_and_kernels_of_many_examples_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    values: Any = build_learner({"method": "ridge", "kind": "regression", "input_shape": [1, 16, 16], "backbone": {"kind": "conv4"}})
    (task,), generator = draw_tasks([(1, 2)], 1), torch.Generator().manual_seed(1)
    assert values.adapt_natively(values.init(generator), task) is None
    learner = build("gaussian")
    params = draw_params(learner, 1)
    assert learner.adapt_natively(params, task) is not None
    monkeypatch.setattr(closed_native, "MOST_BY_GAUSSIAN", 2)
    assert learner.adapt_natively(params, task) is None


def test_examples_that_are_equal_are_told_apart_by_nothing_and_raise_nothing() -> None:
    learner, (task,) = build("gaussian"), draw_tasks([(2, 2)], 1)
    params, same = draw_params(learner, 1), replace(task, inputs=torch.zeros_like(task.inputs))
    for support in (same, draw_tasks([(1,)], 1)[0]):
        found, wanted = learner.adapt(params, support), by_torch(partial(learner.adapt, params, support))
        torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-8, atol=1e-8)
        for name, tensor in wanted.state.items():
            torch.testing.assert_close(found.state[name], tensor, rtol=1e-8, atol=1e-8)


def test_parameters_of_another_shape_or_type_are_refused() -> None:
    learner, (task,) = build("protonet"), draw_tasks([(1, 2)], 1)
    params = draw_params(learner, 1)
    for broken in (params["norm1.scale"][1:], params["norm1.scale"].float()):
        with pytest.raises(ValueError, match="a parameter is"):
            learner.adapt(params | {"norm1.scale": broken}, task)
