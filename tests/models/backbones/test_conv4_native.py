"""The network in C against autograd over torch's convolutions, which is the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.backbones import Conv4, build_backbone
from models.backbones.conv4_native import lay_out
from models.support import Params

backbones = st.builds(
    lambda side, downsample, norm, widths, channels: make(
        (channels, side + 16, side + 17), downsample=downsample, norm=norm, widths=widths
    ),
    st.integers(0, 5),
    st.sampled_from(["stride", "pool"]),
    st.sampled_from(["group", "layer", "none"]),
    st.sampled_from([[], [8, 16, 40, 24]]),
    st.sampled_from([1, 3]),
)


def make(shape: tuple[int, ...], **options: Any) -> Conv4:
    backbone = build_backbone({"kind": "conv4", "filters": 16, "groups": 4, **options}, shape)
    assert isinstance(backbone, Conv4)
    return backbone


def draw_params(backbone: Conv4, lanes: int, seed: int, dtype: torch.dtype = torch.float64) -> Params:
    """Per lane; for no lanes shared by all."""
    generator = torch.Generator().manual_seed(seed)
    axes = (lanes,) if lanes else ()
    return {
        name: (tensor + 0.3 * torch.randn(*axes, *tensor.shape, generator=generator)).to(dtype)
        for name, tensor in backbone.init(generator).items()
    }


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_torch(call: Callable[[], Any]) -> Any:
    with patch.object(Conv4, "find_native", lambda self, inputs: None):
        return call()


def differentiate_twice(backbone: Conv4, params: Params, inputs: Tensor, seed: int) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
    """The features; the gradient of a function of theirs that is not linear; and that of a function of this gradient and of them."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    features = backbone.features(leaves, inputs)
    upstream = draw(*features.shape, seed=seed, dtype=features.dtype)
    first = torch.autograd.grad((features.square() * upstream).sum(), list(leaves.values()), create_graph=True)
    objective = sum(((each * draw(*each.shape, seed=seed, dtype=each.dtype)).sum() for each in first), features.sin().sum())
    return features.detach(), [each.detach() for each in first], torch.autograd.grad(objective, list(leaves.values()))


@given(backbone=backbones, lanes=st.integers(0, 3), n=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_features_and_both_derivatives_are_those_of_autograd(backbone: Conv4, lanes: int, n: int, seed: int) -> None:
    params, inputs = draw_params(backbone, lanes, seed), draw(lanes or 2, n, *backbone.input_shape, seed=seed)
    assert backbone.find_native(inputs) is not None
    found = differentiate_twice(backbone, params, inputs, seed)
    wanted = by_torch(lambda: differentiate_twice(backbone, params, inputs, seed))
    for ours, reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


def differentiate_in_turn(backbone: Conv4, params: Params, inputs: Tensor) -> Sequence[Tensor]:
    """Of three gradients of the same features: their own in what weighs these; the features' alone; both in everything; their own alone."""
    leaves = [tensor.clone().requires_grad_() for tensor in params.values()]
    weights = draw(backbone.feature_dim, seed=2).requires_grad_()
    features = backbone.features(dict(zip(params, leaves, strict=True)), inputs)
    weighed = [(features.pow(power) * weights).sum() for power in (1, 2, 3)]  # of the first what comes back does not hang on the features
    firsts = [each for loss in weighed for each in torch.autograd.grad(loss, leaves, create_graph=True)]
    objective = torch.stack([(each * draw(*each.shape, seed=1)).sum() for each in firsts]).sum()
    return [
        *torch.autograd.grad(objective, [weights], retain_graph=True),
        *torch.autograd.grad(features.sin().sum(), leaves, retain_graph=True),
        *torch.autograd.grad(objective + features.sin().sum(), [*leaves, weights], retain_graph=True),
        *torch.autograd.grad(objective, [*leaves, weights]),
    ]


@pytest.mark.parametrize("downsample", ["stride", "pool"])
def test_one_way_back_leaves_nothing_behind_for_another(downsample: str) -> None:
    backbone = make((1, 17, 18), downsample=downsample)
    params, inputs = draw_params(backbone, 2, 1), draw(2, 3, 1, 17, 18, seed=1)
    found = differentiate_in_turn(backbone, params, inputs)
    wanted = by_torch(lambda: differentiate_in_turn(backbone, params, inputs))
    for ours, reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


def test_a_third_derivative_is_refused() -> None:
    backbone = make((1, 16, 16))
    leaves = {name: tensor.requires_grad_() for name, tensor in draw_params(backbone, 0, 1).items()}
    tensors, loss = list(leaves.values()), backbone.features(leaves, draw(1, 2, 1, 16, 16, seed=1)).square().sum()
    for _ in range(2):
        loss = torch.stack([each.square().sum() for each in torch.autograd.grad(loss, tensors, create_graph=True)]).sum()
    with pytest.raises(RuntimeError, match=r"differentiate twice|implement either"):
        torch.autograd.grad(loss, tensors)


def test_of_no_examples_both_derivatives_are_zero() -> None:
    backbone = make((1, 20, 20))
    params, inputs = draw_params(backbone, 2, 1), torch.zeros(2, 0, 1, 20, 20, dtype=torch.float64)
    features, first, second = differentiate_twice(backbone, params, inputs, 1)
    assert features.shape == (2, 0, backbone.feature_dim)
    assert not any(each.any() for each in (*first, *second))


@pytest.mark.parametrize("downsample", ["stride", "pool"])
def test_in_single_precision_the_way_makes_a_difference_below_a_hundred_thousandth(downsample: str) -> None:
    backbone = make((1, 28, 28), filters=64, groups=8, downsample=downsample)
    params, inputs = draw_params(backbone, 2, 5, torch.float32), draw(2, 5, 1, 28, 28, seed=5, dtype=torch.float32)
    found, wanted = backbone.features(params, inputs), by_torch(lambda: backbone.features(params, inputs))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@given(lanes=st.integers(1, 6), n=st.integers(1, 9), threads=st.integers(1, 5), keeps=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_lane_is_the_same_to_the_last_bit_in_every_batch_and_on_any_threads(
    lanes: int, n: int, threads: int, keeps: bool, seed: int
) -> None:
    backbone = make((1, 19, 18))
    params, inputs = draw_params(backbone, lanes, seed, torch.float32), draw(lanes, n, 1, 19, 18, seed=seed, dtype=torch.float32)
    alone = torch.cat([backbone.features({name: each[lane : lane + 1] for name, each in params.items()}, inputs[lane : lane + 1, :1])
                       for lane in range(lanes)])  # fmt: skip
    leaves = {name: tensor.requires_grad_(keeps) for name, tensor in params.items()}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        together = backbone.features(leaves, inputs)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together[:, :1], alone)


@given(kinds=st.lists(st.sampled_from(["shared", "expanded", "own", "laid out"]), min_size=12, max_size=12), lanes=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_without_a_gradient_parameters_are_read_wherever_they_lie(kinds: Sequence[str], lanes: int) -> None:
    backbone = make((1, 19, 18))
    inputs, shared, own = draw(lanes, 3, 1, 19, 18, seed=1), draw_params(backbone, 0, 2), draw_params(backbone, lanes, 3)
    laid = backbone.lay_out(own)
    expanded = {name: tensor.expand(lanes, *tensor.shape) for name, tensor in shared.items()}
    by_kind = {"shared": shared, "expanded": expanded, "own": own, "laid out": laid}
    params = {name: by_kind[kind][name] for name, kind in zip(shared, kinds, strict=True)}
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    assert torch.equal(backbone.features(params, inputs), backbone.features(leaves, inputs).detach())
    with torch.no_grad():
        assert torch.equal(backbone.features(leaves, inputs), backbone.features(params, inputs))


def test_equal_maxima_in_a_window_are_resolved_as_torch_does() -> None:
    backbone = make((1, 20, 20), downsample="pool")
    params, inputs = draw_params(backbone, 2, 1), torch.zeros(2, 3, 1, 20, 20, dtype=torch.float64)
    inputs[:, :, :, 5:9] = 1.0
    found, wanted = (call(lambda: differentiate_twice(backbone, params, inputs, 1)) for call in (lambda run: run(), by_torch))
    for ours, reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


def test_numbers_that_are_not_finite_come_out_as_such() -> None:
    backbone = make((1, 20, 20), norm="none")
    params, inputs = draw_params(backbone, 0, 1, torch.float32), torch.full((1, 2, 1, 20, 20), torch.nan)
    assert not backbone.features(params, inputs).isfinite().any()


def test_kernels_laid_out_are_the_same_kernels_and_are_read_where_they_lie() -> None:
    backbone = make((1, 20, 20))
    params, inputs = draw_params(backbone, 2, 3), draw(2, 3, 1, 20, 20, seed=3)
    laid = backbone.lay_out(params)
    for name, tensor in params.items():
        assert torch.equal(laid[name], tensor)
    assert backbone.lay_out(laid)["conv2.weight"].data_ptr() == laid["conv2.weight"].data_ptr()
    assert torch.equal(backbone.features(laid, inputs), backbone.features(params, inputs))
    shared = lay_out(params["conv2.weight"][0])
    assert shared.shape == params["conv2.weight"].shape[1:]


def test_a_gradient_lies_in_memory_as_the_kernels_do() -> None:
    backbone = make((1, 20, 20))
    laid = {name: tensor.requires_grad_() for name, tensor in backbone.lay_out(draw_params(backbone, 2, 3)).items()}
    (gradient,) = torch.autograd.grad(backbone.features(laid, draw(2, 3, 1, 20, 20, seed=3)).sum(), [laid["conv2.weight"]])
    assert gradient.stride() == laid["conv2.weight"].stride()


@pytest.mark.parametrize("options", [{"extra": [2]}, {"attention": 4}, {"widths": [12, 12, 12, 12]}, {"filters": 528}])
def test_a_network_that_is_not_only_plain_blocks_of_whole_vectors_is_left_to_torch(options: dict[str, Any]) -> None:
    assert make((1, 28, 28), **options).find_native(torch.zeros(1, 1, 1, 28, 28)) is None


def test_inputs_that_are_to_be_differentiated_in_or_are_half_as_long_are_left_to_torch() -> None:
    backbone = make((1, 28, 28))
    assert backbone.find_native(torch.zeros(1, 1, 1, 28, 28, requires_grad=True)) is None
    assert backbone.find_native(torch.zeros(1, 1, 1, 28, 28, dtype=torch.bfloat16)) is None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("conv2.weight", torch.zeros(16, 16, 3, 2)),
        ("norm1.scale", torch.zeros(15)),
        ("norm3.shift", torch.zeros(16, dtype=torch.float64)),
        ("conv1.weight", torch.zeros(3, 16, 1, 3, 3)),
    ],
)
def test_a_parameter_that_is_not_what_the_network_reads_is_refused(name: str, wrong: Tensor) -> None:
    backbone = make((1, 20, 20))
    params, inputs = {**draw_params(backbone, 0, 1, torch.float32), name: wrong}, torch.zeros(2, 3, 1, 20, 20)
    with pytest.raises(ValueError, match="a parameter is torch"):
        backbone.features(params, inputs)


def test_images_of_another_size_are_left_to_torch() -> None:
    backbone = make((1, 20, 20))
    params, inputs = draw_params(backbone, 0, 1), draw(1, 2, 1, 24, 24, seed=1)
    assert backbone.find_native(inputs) is None
    assert torch.equal(backbone.features(params, inputs), by_torch(lambda: backbone.features(params, inputs)))
