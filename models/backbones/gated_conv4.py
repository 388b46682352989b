"""Conv-4 that learns its own architecture: how wide each block is, and which have a residual convolution more.

Gates are trained together with the weights, as DARTS (Liu et al. 2019, arXiv:1806.09055) and T-NAS (Lian et al. 2020) do with their
mixing weights; a cost in multiply-adds pulls them shut. Two things differ. A gate closes a whole normalisation group, so that what is
left normalises as before. And gates are open or shut in every forward, never between (the gradient goes straight through, Bengio et al.
2013, arXiv:1308.3432): the next normalisation would cancel gates that shrink together, and none of them would ever have to choose.
So the network that was trained is the one that `fix_architecture` writes down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.conv4 import BLOCKS, Conv4
from models.backbones.lanes import scale_channels
from models.support import Params

SHARPNESS = 10.0
"""Openness is sigmoid(SHARPNESS * gate): Adam moves a gate by its learning rate a step, and hundreds of steps must be able to shut it."""
INITIAL_GATE = 0.3


@dataclass(frozen=True)
class GatedConv4:
    """A strided or pooled Conv-4 with group normalisation, a gate for each group of each block, and one for each of its `extra` blocks.

    The first block's residual convolution would cost more than all the rest of the network, so it is not offered unless asked for.
    """

    input_shape: tuple[int, ...]
    filters: int = 64
    downsample: Literal["stride", "pool"] = "stride"
    groups: int = 8
    extra: tuple[int, ...] = (2, 3, 4)

    def __post_init__(self) -> None:
        self.open  # noqa: B018 (the options are checked by the network with all gates open)

    @cached_property
    def open(self) -> Conv4:
        """The network with every gate open."""
        return Conv4(self.input_shape, self.filters, self.downsample, "group", self.groups, extra=self.extra)

    @property
    def feature_dim(self) -> int:
        return self.open.feature_dim

    def init(self, generator: torch.Generator) -> Params:
        """The open network's parameters, and gates that stand open."""
        params = self.open.init(generator)
        params |= {_width(block): torch.full((self.groups,), INITIAL_GATE) for block in range(1, BLOCKS + 1)}
        return params | {_depth(block): torch.full((1,), INITIAL_GATE) for block in self.extra}

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """(lanes, n, channels, height, width) to (lanes, n, feature_dim); features of closed channels are zero."""
        maps = inputs
        for block in range(1, BLOCKS + 1):
            is_open = _decide(_openness(params[_width(block)])).repeat_interleave(self.filters // self.groups, -1)
            whole = self.open.convolve(params, maps, block)
            # Gates come after the ReLU: before it, a closed channel would sit where the ReLU has no slope, and could never open again.
            maps = scale_channels(whole, is_open)
            if block in self.extra:
                deepens = _decide(_openness(params[_depth(block)]), keep_one=False)
                maps = scale_channels(F.relu(whole + scale_channels(self.open.residual(params, maps, block), deepens)), is_open)
        return maps.flatten(2)

    def cost(self, params: Params) -> Tensor:
        """Expected multiply-adds, as a share of the open network's, when each gate is open with its openness as probability."""
        expected, most = params[_width(1)].new_zeros(()), 0.0
        width_in = expected.new_full((), float(self.input_shape[0]))
        for block in range(1, BLOCKS + 1):
            openness, unit = _openness(params[_width(block)]), self.filters // self.groups
            width = openness.sum() * unit
            places = 9 * math.prod(self.open.map_size(block)) * (1 if self.downsample == "stride" else 4)
            expected = expected + places * width_in * width
            most += places * self.filters * (self.input_shape[0] if block == 1 else self.filters)
            if block in self.extra:
                places, depth = 9 * math.prod(self.open.map_size(block)), _openness(params[_depth(block)]).sum()
                square = width.square() + unit**2 * (openness * (1 - openness)).sum()  # the mean of a square, not the square of the mean
                expected = expected + places * depth * square
                most += places * self.filters**2
            width_in = width
        return expected / most


def fix_architecture(backbone: GatedConv4, params: Params) -> tuple[dict[str, Any], Params]:
    """The plain Conv-4 without the closed channels and convolutions: its spec for `build_backbone`, and its parameters.

    params without a lane axis. The features are those of the gated network, less the zeros of closed channels.
    """
    kept = [_kept_channels(params[_width(block)], backbone.filters // backbone.groups) for block in range(1, BLOCKS + 1)]
    extra = [block for block in backbone.extra if _decide(_openness(params[_depth(block)]), keep_one=False).item()]
    fixed: Params = {}
    inputs = torch.arange(backbone.input_shape[0], device=kept[0].device)
    for block, channels in enumerate(kept, start=1):
        fixed |= _take(params, (f"conv{block}.weight", f"norm{block}.scale", f"norm{block}.shift"), channels, inputs)
        if block in extra:
            fixed |= _take(params, (f"extra{block}.weight", f"extra{block}.scale", f"extra{block}.shift"), channels, channels)
        inputs = channels
    spec = {"kind": "conv4", "filters": backbone.filters, "downsample": backbone.downsample, "norm": "group", "groups": backbone.groups}
    return {**spec, "widths": [len(channels) for channels in kept], "extra": extra}, fixed


def _take(params: Params, names: tuple[str, str, str], channels: Tensor, inputs: Tensor) -> Params:
    weight, scale, shift = names
    return {weight: params[weight][channels][:, inputs].contiguous(), scale: params[scale][channels], shift: params[shift][channels]}


def _kept_channels(gate: Tensor, unit: int) -> Tensor:
    return _decide(_openness(gate)).repeat_interleave(unit).nonzero().squeeze(1)


def _openness(gate: Tensor) -> Tensor:
    return torch.sigmoid(SHARPNESS * gate)


def _decide(openness: Tensor, *, keep_one: bool = True) -> Tensor:
    """1 where more open than shut, else 0, with the gradient of `openness`. With `keep_one` the most open one stays open, whatever."""
    bar = openness.detach().amax(-1, keepdim=True).clamp(max=0.5) if keep_one else 0.5
    return (openness.detach() >= bar).to(openness.dtype) + (openness - openness.detach())


def _width(block: int) -> str:
    return f"gate{block}.width"


def _depth(block: int) -> str:
    return f"gate{block}.depth"
