from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones import build_backbone
from models.errors import InvalidOptions
from models.support import Params

SHAPE = (3, 18, 17)


def conv4(**options: Any) -> Any:
    return build_backbone({"kind": "conv4", "filters": 8, "groups": 4, **options}, SHAPE)


def draw_params(backbone: Any, seed: int = 0) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor.double() + 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in backbone.init(generator).items()
    }


def compute_plainly(params: Params, image: Tensor, groups: tuple[int, ...], extra: tuple[int, ...]) -> Tensor:
    """One image through torch's own layers, block by block."""
    maps = image[None]
    for block, n_groups in enumerate(groups, start=1):
        maps = F.conv2d(maps, params[f"conv{block}.weight"], stride=2, padding=1)
        maps = F.relu(F.group_norm(maps, n_groups, params[f"norm{block}.scale"], params[f"norm{block}.shift"]))
        if block in extra:
            change = F.conv2d(maps, params[f"extra{block}.weight"], padding=1)
            maps = F.relu(maps + F.group_norm(change, n_groups, params[f"extra{block}.scale"], params[f"extra{block}.shift"]))
    return maps.flatten()


def test_widths_and_residual_convolutions_are_those_of_plain_layers() -> None:
    backbone = conv4(widths=[4, 8, 6, 2], extra=[2, 4])
    params = draw_params(backbone)
    images = torch.rand(1, 3, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features = backbone.features(params, images)
    assert features.shape == (1, 3, backbone.feature_dim)
    for index in range(3):
        torch.testing.assert_close(features[0, index], compute_plainly(params, images[0, index], (2, 4, 3, 1), (2, 4)))


def test_equal_widths_are_the_network_of_one_width() -> None:
    plain, listed = conv4(), conv4(widths=[8, 8, 8, 8])
    params = draw_params(plain)
    images = torch.rand(1, 2, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(plain.features(params, images), listed.features(params, images))


def test_lanes_with_parameters_of_their_own_get_what_they_would_get_alone() -> None:
    backbone = conv4(widths=[4, 8, 6, 2], extra=[1, 3])
    own = [draw_params(backbone, seed) for seed in range(3)]
    images = torch.rand(3, 2, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = backbone.features({name: torch.stack([params[name] for params in own]) for name in own[0]}, images)
    for lane, params in enumerate(own):
        torch.testing.assert_close(together[lane : lane + 1], backbone.features(params, images[lane : lane + 1]))


def test_a_fresh_residual_convolution_adds_nothing_but_can_learn() -> None:
    plain, deeper = conv4(), conv4(extra=[1, 2, 3, 4])
    params = {name: tensor.requires_grad_() for name, tensor in deeper.init(torch.Generator().manual_seed(0)).items()}
    images = torch.rand(1, 2, *SHAPE, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(deeper.features(params, images), plain.features(params, images))
    deeper.features(params, images).square().sum().backward()
    slopes = [params[f"extra{block}.scale"].grad for block in (1, 2, 3, 4)]
    assert all(slope is not None and slope.abs().sum() > 0 for slope in slopes)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"widths": [8, 8, 8]}, "widths must be 4 multiples of 2"),
        ({"widths": [8, 8, 8, 3]}, "widths must be 4 multiples of 2"),
        ({"widths": [8, 0, 8, 8]}, "widths must be 4 multiples of 2"),
        ({"extra": [0]}, "extra must list blocks of 1 to 4"),
        ({"extra": [2, 2]}, "extra must list blocks of 1 to 4, each once"),
    ],
)
def test_shapes_that_are_none_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidOptions, match=complaint):
        conv4(**options)
