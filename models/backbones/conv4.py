"""Conv-4: the four-block network of the few-shot literature (Vinyals et al. 2016; Finn et al. 2017 for the strided form).

Each block is 3x3 convolution, normalisation, ReLU, and a halving of the image by max pooling or by the stride.
Normalisation looks at one example at a time, never at a batch: DECISIONS.md has the measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.lanes import group_normalise, lane_conv, max_pool, scale_and_shift
from models.errors import InvalidOptions
from models.support import Params

BLOCKS = 4


@dataclass(frozen=True)
class Conv4:
    """Four convolution blocks over (channels, height, width) images.

    downsample: `stride` (28 -> 14 -> 7 -> 4 -> 2, four times cheaper) or `pool` (28 -> 14 -> 7 -> 3 -> 1).
    norm: `group` (GroupNorm with `groups`), `layer` (one group) or `none` (scale and shift only).
    """

    input_shape: tuple[int, ...]
    filters: int = 64
    downsample: Literal["stride", "pool"] = "stride"
    norm: Literal["group", "layer", "none"] = "group"
    groups: int = 8

    def __post_init__(self) -> None:
        if len(self.input_shape) != 3:
            raise InvalidOptions(f"conv4 reads (channels, height, width) images, got the shape {self.input_shape}")
        if self.downsample not in ("stride", "pool"):
            raise InvalidOptions(f"conv4 downsample must be stride or pool, got {self.downsample!r}")
        if self.norm not in ("group", "layer", "none"):
            raise InvalidOptions(f"conv4 norm must be group, layer or none, got {self.norm!r}")
        if self.norm == "group" and self.filters % self.groups:
            raise InvalidOptions(f"conv4 filters ({self.filters}) must be a multiple of groups ({self.groups})")
        if 0 in self._final_size():
            raise InvalidOptions(f"conv4 with pooling needs images of at least 16x16, got {self.input_shape}")

    @property
    def feature_dim(self) -> int:
        return self.filters * math.prod(self._final_size())

    def _final_size(self) -> tuple[int, int]:
        height, width = self.input_shape[1:]
        for _ in range(BLOCKS):
            height, width = (height // 2, width // 2) if self.downsample == "pool" else ((height + 1) // 2, (width + 1) // 2)
        return height, width

    def init(self, generator: torch.Generator) -> Params:
        """He-normal kernels (He et al. 2015), unit scales, zero shifts."""
        params: Params = {}
        c_in = self.input_shape[0]
        for block in range(1, BLOCKS + 1):
            std = math.sqrt(2 / (9 * c_in))
            params[f"conv{block}.weight"] = torch.randn(self.filters, c_in, 3, 3, generator=generator) * std
            params[f"norm{block}.scale"] = torch.ones(self.filters)
            params[f"norm{block}.shift"] = torch.zeros(self.filters)
            c_in = self.filters
        return params

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """(lanes, n, channels, height, width) to (lanes, n, feature_dim), with shared or per-lane parameters."""
        maps = inputs
        for block in range(1, BLOCKS + 1):
            maps = self._block(params, maps, block)
        return maps.flatten(2)

    def _block(self, params: Params, maps: Tensor, block: int) -> Tensor:
        stride = 2 if self.downsample == "stride" else 1
        maps = self._normalise(lane_conv(maps, params[f"conv{block}.weight"], stride))
        maps = F.relu(scale_and_shift(maps, params[f"norm{block}.scale"], params[f"norm{block}.shift"]))
        return maps if self.downsample == "stride" else max_pool(maps)

    def _normalise(self, maps: Tensor) -> Tensor:
        if self.norm == "none":
            return maps
        return group_normalise(maps, self.groups if self.norm == "group" else 1)
