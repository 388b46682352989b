"""The written-out derivative against autograd, which is the reference."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.backbones import Conv4, build_backbone
from models.backbones.tracing import Traces
from models.support import Params

backbones = st.builds(
    lambda side, downsample, norm, widths, channels: make(
        (channels, side + 16, side + 17), downsample=downsample, norm=norm, widths=widths
    ),
    st.integers(0, 5),
    st.sampled_from(["stride", "pool"]),
    st.sampled_from(["group", "layer", "none"]),
    st.sampled_from([[], [2, 4, 6, 8]]),
    st.sampled_from([1, 3]),
)


def make(shape: tuple[int, ...], **options: Any) -> Conv4:
    backbone = build_backbone({"kind": "conv4", "filters": 8, "groups": 4, **options}, shape)
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


def draw_inputs(backbone: Conv4, lanes: int, n: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(lanes, n, *backbone.input_shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@given(backbone=backbones, lanes=st.integers(1, 3), n=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_features_and_gradients_are_those_of_autograd(backbone: Conv4, lanes: int, n: int, seed: int) -> None:
    params, inputs = draw_params(backbone, lanes, seed), draw_inputs(backbone, lanes, n, seed)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    wanted = backbone.features(leaves, inputs)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(seed), dtype=wanted.dtype)
    with torch.no_grad():
        features, pull_back = backbone.trace(backbone.lay_out(params), backbone.open(inputs))
        found = pull_back(upstream)
    torch.testing.assert_close(features, wanted.detach())
    gradients = torch.autograd.grad(wanted, list(leaves.values()), upstream)
    for name, gradient in zip(leaves, gradients, strict=True):
        torch.testing.assert_close(found[name], gradient)


def test_parameters_that_all_lanes_share_are_traced_once() -> None:
    backbone = make((1, 28, 28))
    params, inputs = draw_params(backbone, 0, 3), draw_inputs(backbone, 3, 2, 3)
    expanded = {name: tensor.expand(3, *tensor.shape) for name, tensor in params.items()}
    features, pull_back = backbone.trace(expanded, backbone.open(inputs))
    torch.testing.assert_close(features, backbone.features(params, inputs))
    copies = {name: tensor.clone() for name, tensor in expanded.items()}
    _, pull_copies = backbone.trace(copies, backbone.open(inputs))
    upstream = torch.ones_like(features)
    torch.testing.assert_close(pull_back(upstream), pull_copies(upstream))


def test_running_without_a_trace_gives_the_same_features() -> None:
    backbone = make((3, 21, 20), downsample="pool")
    params, opened = draw_params(backbone, 2, 4), backbone.open(draw_inputs(backbone, 2, 3, 4))
    assert torch.equal(backbone.run(params, opened), backbone.trace(params, opened)[0])


def test_in_single_precision_the_way_makes_a_difference_below_a_hundred_thousandth() -> None:
    backbone = make((1, 28, 28), filters=64, groups=8)
    params, inputs = draw_params(backbone, 2, 5, torch.float32), draw_inputs(backbone, 2, 5, 5, torch.float32)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    wanted = backbone.features(leaves, inputs)
    gradients = torch.autograd.grad(wanted.square().sum(), list(leaves.values()))
    features, pull_back = backbone.trace(params, backbone.open(inputs))
    found = pull_back(2 * features)
    torch.testing.assert_close(features, wanted.detach(), rtol=1e-5, atol=1e-5)
    for name, gradient in zip(leaves, gradients, strict=True):
        assert (found[name] - gradient).abs().max() < 1e-5 * gradient.abs().max(), name


def test_a_network_with_more_than_plain_blocks_leaves_it_to_autograd() -> None:
    assert isinstance(make((1, 28, 28)), Traces)
    assert make((1, 28, 28)).can_trace
    assert not make((1, 28, 28), extra=[2]).can_trace
    assert not make((1, 28, 28), attention=4).can_trace
