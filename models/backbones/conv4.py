"""Conv-4: the four-block network of the few-shot literature (Vinyals et al. 2016; Finn et al. 2017 for the strided form).

Each block is 3x3 convolution, normalisation, ReLU, and a halving of the image by max pooling or by the stride.
Normalisation looks at one example at a time, never at a batch: DECISIONS.md has the measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.attention import attend, init_attention
from models.backbones.conv4_descent import Descent
from models.backbones.conv4_native import BlockPlan, Network, lay_out, make_network
from models.backbones.lanes import group_normalise, lane_conv, max_pool, scale_and_shift
from models.errors import InvalidOptions
from models.native.library import MOST_CHANNELS, find_library
from models.support import Params

BLOCKS = 4
BLOCK_PARAMETERS = (("conv", "weight"), ("norm", "scale"), ("norm", "shift"))
ATTENDED_BLOCK = 3
"""Attention reads this block's maps: with 28x28 images and strides 4x4 places; one block later there are four left to relate."""


@dataclass(frozen=True)
class Conv4:
    """Four convolution blocks over (channels, height, width) images.

    downsample: `stride` (28 -> 14 -> 7 -> 4 -> 2, four times cheaper) or `pool` (28 -> 14 -> 7 -> 3 -> 1).
    norm: `group` (GroupNorm with `groups`), `layer` (one group) or `none` (scale and shift only).
    widths: channels of each block, when they are not all `filters`; groups keep the size of filters / groups.
    extra: blocks, of 1 to 4, that are followed by a residual 3x3 convolution.
    attention: heads of self-attention after the third block, 0 for none.
    """

    input_shape: tuple[int, ...]
    filters: int = 64
    downsample: Literal["stride", "pool"] = "stride"
    norm: Literal["group", "layer", "none"] = "group"
    groups: int = 8
    widths: tuple[int, ...] = ()
    extra: tuple[int, ...] = ()
    attention: int = 0

    def __post_init__(self) -> None:
        if len(self.input_shape) != 3:
            raise InvalidOptions(f"conv4 reads (channels, height, width) images, got the shape {self.input_shape}")
        if self.downsample not in ("stride", "pool"):
            raise InvalidOptions(f"conv4 downsample must be stride or pool, got {self.downsample!r}")
        if self.norm not in ("group", "layer", "none"):
            raise InvalidOptions(f"conv4 norm must be group, layer or none, got {self.norm!r}")
        if self.norm == "group" and self.filters % self.groups:
            raise InvalidOptions(f"conv4 filters ({self.filters}) must be a multiple of groups ({self.groups})")
        if 0 in self.map_size(BLOCKS):
            raise InvalidOptions(f"conv4 with pooling needs images of at least 16x16, got {self.input_shape}")
        self._check_blocks()

    def _check_blocks(self) -> None:
        unit = self.filters // self.groups if self.norm == "group" else 1
        if self.widths and (len(self.widths) != BLOCKS or any(width < 1 or width % unit for width in self.widths)):
            raise InvalidOptions(f"conv4 widths must be {BLOCKS} multiples of {unit}, the channels of a group; got {list(self.widths)}")
        if len(set(self.extra)) < len(self.extra) or not set(self.extra) <= set(range(1, BLOCKS + 1)):
            raise InvalidOptions(f"conv4 extra must list blocks of 1 to {BLOCKS}, each once; got {list(self.extra)}")
        attended = self.block_widths[ATTENDED_BLOCK - 1]
        if self.attention < 0 or (self.attention and attended % self.attention):
            raise InvalidOptions(f"conv4 attention must be 0 or divide the {attended} channels of block 3, got {self.attention}")

    @property
    def feature_dim(self) -> int:
        return self.block_widths[-1] * math.prod(self.map_size(BLOCKS))

    @property
    def block_widths(self) -> tuple[int, ...]:
        """Channels that leave each block."""
        return self.widths or (self.filters,) * BLOCKS

    def map_size(self, block: int) -> tuple[int, int]:
        """Height and width of the maps that leave a block."""
        height, width = self.input_shape[1:]
        for _ in range(block):
            height, width = (height // 2, width // 2) if self.downsample == "pool" else ((height + 1) // 2, (width + 1) // 2)
        return height, width

    def init(self, generator: torch.Generator) -> Params:
        """He-normal kernels (He et al. 2015), unit scales, zero shifts. Residual convolutions and attention add nothing at first."""
        params: Params = {}
        c_in = self.input_shape[0]
        for block, width in enumerate(self.block_widths, start=1):
            params[f"conv{block}.weight"] = _draw_kernel(width, c_in, generator)
            params[f"norm{block}.scale"] = torch.ones(width)
            params[f"norm{block}.shift"] = torch.zeros(width)
            c_in = width
        for block in self.extra:
            width = self.block_widths[block - 1]
            params[f"extra{block}.weight"] = _draw_kernel(width, width, generator)
            params[f"extra{block}.scale"] = torch.zeros(width)
            params[f"extra{block}.shift"] = torch.zeros(width)
        if self.attention:
            params |= init_attention(self.block_widths[ATTENDED_BLOCK - 1], math.prod(self.map_size(ATTENDED_BLOCK)), generator)
        return params

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """(lanes, n, channels, height, width) to (lanes, n, feature_dim), with shared or per-lane parameters."""
        native = self.find_native(inputs)
        if native is not None:
            return native.features(inputs, [params[name] for name in self.parameter_names])
        maps = inputs
        for block in range(1, BLOCKS + 1):
            maps = self.convolve(params, maps, block)
            if block in self.extra:
                maps = F.relu(maps + self.residual(params, maps, block))
            if block == ATTENDED_BLOCK and self.attention:
                maps = attend(params, maps, self.attention)
        return maps.flatten(2)

    def find_native(self, inputs: Tensor) -> Network | None:
        """What computes the features of such inputs in C, with its derivatives in the parameters; None where torch does.

        C wherever it can: `innerloop benchmark paths` has both for every learner and number of lanes (docs/performance.md).
        """
        if inputs.requires_grad or inputs.shape[2:] != self.input_shape:
            return None
        return self._networks.get(inputs.dtype) if inputs.is_cpu else None

    def find_descent(self, inputs: Tensor) -> Descent | None:
        """What runs whole inner loops over such inputs in C; None where torch does."""
        native = self.find_native(inputs)
        return None if native is None else Descent(native, self.parameter_names)

    def lay_out(self, params: Params) -> Params:
        """The same parameters, in memory the way `features` reads them fastest."""
        kernels = [name for name in self.parameter_names if name.startswith("conv") and name in params]
        return params | {name: lay_out(params[name]) for name in kernels if params[name].is_cpu and params[name].dtype in self._networks}

    @cached_property
    def parameter_names(self) -> tuple[str, ...]:
        """Of the four blocks, in the order `Network` reads them."""
        return tuple(f"{name}{block}.{part}" for block in range(1, BLOCKS + 1) for name, part in BLOCK_PARAMETERS)

    @cached_property
    def _networks(self) -> dict[torch.dtype, Network]:
        """By number type, where there is a library for it; none of blocks that are not plain ones, or wider than it has room for."""
        if self.extra or self.attention or max(self.block_widths) > MOST_CHANNELS:
            return {}
        found = {dtype: find_library(dtype, math.gcd(*self.block_widths)) for dtype in (torch.float32, torch.float64)}
        return {dtype: make_network(library, self._plans, self.feature_dim) for dtype, library in found.items() if library is not None}

    @cached_property
    def _plans(self) -> tuple[BlockPlan, ...]:
        stride, plans, c_in = 2 if self.downsample == "stride" else 1, [], self.input_shape[0]
        for block, width in enumerate(self.block_widths, start=1):
            size_in = self.map_size(block - 1)
            size = self.map_size(block) if stride == 2 else size_in
            plans.append(BlockPlan(stride, size_in, size, c_in, width, self._count_groups(width), self.downsample == "pool"))
            c_in = width
        return tuple(plans)

    def convolve(self, params: Params, maps: Tensor, block: int) -> Tensor:
        """The maps that leave a block, without its residual convolution."""
        maps = lane_conv(maps, params[f"conv{block}.weight"], 2 if self.downsample == "stride" else 1)
        maps = F.relu(self._normalise(maps, params[f"norm{block}.scale"], params[f"norm{block}.shift"]))
        return maps if self.downsample == "stride" else max_pool(maps)

    def residual(self, params: Params, maps: Tensor, block: int) -> Tensor:
        """What a block's residual convolution adds before the last ReLU (He et al. 2015b, arXiv:1512.03385)."""
        change = lane_conv(maps, params[f"extra{block}.weight"], 1)
        return self._normalise(change, params[f"extra{block}.scale"], params[f"extra{block}.shift"])

    def _normalise(self, maps: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        groups = self._count_groups(maps.shape[2])
        return group_normalise(maps, scale, shift, groups) if groups else scale_and_shift(maps, scale, shift)

    def _count_groups(self, width: int) -> int:
        """Normalisation groups of a block that is so wide; 0 for none."""
        return {"group": width * self.groups // self.filters, "layer": 1, "none": 0}[self.norm]


def _draw_kernel(c_out: int, c_in: int, generator: torch.Generator) -> Tensor:
    return torch.randn(c_out, c_in, 3, 3, generator=generator) * math.sqrt(2 / (9 * c_in))
