from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.backbones import Conv4, GatedConv4, build_backbone
from models.backbones.gated_conv4 import fix_architecture
from models.errors import InvalidOptions
from models.support import Params

SHAPE = (1, 16, 16)
OPEN, SHUT = 10.0, -100.0
"""sigmoid(100) is 1 and sigmoid(-1000) is 0, to the last bit of a float64."""


def gated(**options: Any) -> GatedConv4:
    backbone = build_backbone({"kind": "gated-conv4", "filters": 8, "groups": 4, "extra": [2, 4], **options}, SHAPE)
    assert isinstance(backbone, GatedConv4)
    return backbone


def draw_params(backbone: GatedConv4, gates: dict[str, list[float]], dtype: torch.dtype = torch.float64) -> Params:
    """Random weights, and the gates that are given; the others as they start."""
    generator = torch.Generator().manual_seed(0)
    fresh = backbone.init(generator)
    params = {
        name: t.to(dtype) + (0 if name.startswith("gate") else 0.3 * torch.randn(t.shape, generator=generator)) for name, t in fresh.items()
    }
    return params | {name: torch.tensor(values, dtype=dtype) for name, values in gates.items()}


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(2, 3, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=dtype)


MIXED = {
    "gate1.width": [OPEN, SHUT, OPEN, OPEN],
    "gate2.width": [SHUT, OPEN, SHUT, OPEN],
    "gate4.width": [OPEN, SHUT, SHUT, OPEN],
    "gate2.depth": [OPEN],
    "gate4.depth": [SHUT],
}
SOFT = {
    "gate1.width": [0.02, -0.01, 0.3, 0.1],
    "gate2.width": [-0.2, 0.04, -0.03, 0.5],
    "gate4.width": [0.01, -0.1, -0.05, 0.2],
    "gate2.depth": [0.03],
    "gate4.depth": [-0.02],
}


@pytest.mark.parametrize("gates", [MIXED, SOFT], ids=["exact", "soft"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("downsample", ["stride", "pool"])
def test_the_fixed_network_gives_the_features_of_the_gated_one(gates: dict[str, list[float]], dtype: torch.dtype, downsample: str) -> None:
    backbone = gated(downsample=downsample)
    params = draw_params(backbone, gates, dtype)
    spec, fixed_params = fix_architecture(backbone, params)
    assert (spec["kind"], spec["widths"], spec["extra"]) == ("conv4", [6, 4, 8, 4], [2])
    fixed = build_backbone(spec, SHAPE)
    assert {name: t.shape for name, t in fixed.init(torch.Generator()).items()} == {name: t.shape for name, t in fixed_params.items()}
    found, expected = fixed.features(fixed_params, images(dtype)), backbone.features(params, images(dtype))
    places = fixed.feature_dim // 4
    kept = expected.view(2, 3, 8, places)[:, :, [0, 1, 6, 7]].flatten(2)
    torch.testing.assert_close(found, kept, atol=1e-5 if dtype == torch.float32 else 1e-12, rtol=0)
    assert expected.view(2, 3, 8, places)[:, :, 2:6].eq(0).all()
    assert kept.abs().sum() > 1


def test_with_every_gate_open_it_is_the_plain_network() -> None:
    backbone = gated()
    params = draw_params(backbone, {})
    plain = Conv4(SHAPE, filters=8, groups=4, extra=(2, 4))
    assert torch.equal(backbone.features(params, images()), plain.features(params, images()))


def test_a_block_never_closes_altogether() -> None:
    backbone = gated()
    gates = {f"gate{block}.width": [-0.5, -0.4, -0.45, -0.6] for block in (1, 2, 3, 4)}
    params = draw_params(backbone, gates)
    assert fix_architecture(backbone, params)[0]["widths"] == [2, 2, 2, 2]
    assert backbone.features(params, images()).abs().sum() > 0


def test_open_and_shut_gates_get_a_slope() -> None:
    backbone = gated()
    params = {name: tensor.requires_grad_() for name, tensor in draw_params(backbone, SOFT).items()}
    features = backbone.features(params, images())
    judgement = torch.randn(features.shape, generator=torch.Generator().manual_seed(2), dtype=features.dtype)
    slopes = torch.autograd.grad((features * judgement).sum(), [params[name] for name in SOFT])
    for name, slope in zip(SOFT, slopes, strict=True):
        assert slope.abs().min() > 0, name


def count_multiply_adds(backbone: Conv4) -> int:
    """By the definition, for strides: places x 9 x channels in x channels out, over all convolutions."""
    total, c_in = 0, backbone.input_shape[0]
    for block, c_out in enumerate(backbone.block_widths, start=1):
        height, width = backbone.map_size(block)
        total += height * width * 9 * c_out * (c_in + (c_out if block in backbone.extra else 0))
        c_in = c_out
    return total


def test_the_cost_of_decided_gates_is_their_share_of_the_multiply_adds() -> None:
    backbone = gated()
    params = draw_params(backbone, {**MIXED, "gate3.width": [OPEN] * 4})
    spec, _ = fix_architecture(backbone, params)
    fixed = build_backbone(spec, SHAPE)
    assert isinstance(fixed, Conv4)
    assert backbone.cost(params).item() == pytest.approx(count_multiply_adds(fixed) / count_multiply_adds(backbone.open), rel=1e-12)


def test_the_cost_of_undecided_gates_is_the_mean_over_all_their_decisions() -> None:
    backbone = gated(extra=[2])
    params = draw_params(backbone, {f"gate{block}.width": [OPEN] * 4 for block in (1, 3, 4)})
    params |= {"gate2.width": torch.tensor([0.1, -0.05, 0.02, OPEN]).double(), "gate2.depth": torch.tensor([0.05]).double()}
    mean = 0.0
    for pattern in range(16):
        bits = [bool(pattern >> bit & 1) for bit in range(4)]
        openness = torch.sigmoid(10 * torch.cat([params["gate2.width"][:3], params["gate2.depth"]]))
        chance = torch.where(torch.tensor(bits), openness, 1 - openness).prod().item()
        decided = {"gate2.width": [OPEN if bit else SHUT for bit in bits[:3]] + [OPEN], "gate2.depth": [OPEN if bits[3] else SHUT]}
        mean += chance * backbone.cost(params | {name: torch.tensor(value).double() for name, value in decided.items()}).item()
    assert backbone.cost(params).item() == pytest.approx(mean, rel=1e-12)


def test_the_cost_pulls_every_gate_shut() -> None:
    backbone = gated()
    params = {name: tensor.requires_grad_() for name, tensor in draw_params(backbone, {}).items()}
    gates = [tensor for name, tensor in params.items() if name.startswith("gate")]
    assert all((slope > 0).all() for slope in torch.autograd.grad(backbone.cost(params), gates))


def test_options_of_the_network_underneath_are_checked() -> None:
    with pytest.raises(InvalidOptions, match="filters \\(8\\) must be a multiple of groups \\(3\\)"):
        gated(groups=3)
