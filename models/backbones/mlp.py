"""Multi-layer perceptron: the network of the sinusoid experiments (Finn et al. 2017, section 5.1: two layers of 40, ReLU)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.lanes import lane_linear
from models.errors import InvalidOptions
from models.support import Params


@dataclass(frozen=True)
class Mlp:
    """Fully connected layers with ReLU over flattened inputs."""

    input_shape: tuple[int, ...]
    hidden: tuple[int, ...] = (40, 40)

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise InvalidOptions(f"mlp hidden must list at least one positive width, got {list(self.hidden)}")

    @property
    def feature_dim(self) -> int:
        return self.hidden[-1]

    def init(self, generator: torch.Generator) -> Params:
        """He-normal weights (He et al. 2015), zero biases."""
        params: Params = {}
        d_in = math.prod(self.input_shape)
        for layer, width in enumerate(self.hidden, start=1):
            params[f"linear{layer}.weight"] = torch.randn(width, d_in, generator=generator) * math.sqrt(2 / d_in)
            params[f"linear{layer}.bias"] = torch.zeros(width)
            d_in = width
        return params

    def features(self, params: Params, inputs: Tensor) -> Tensor:
        """(lanes, n, *input_shape) to (lanes, n, feature_dim), with shared or per-lane parameters."""
        features = inputs.flatten(2)
        for layer in range(1, len(self.hidden) + 1):
            features = F.relu(lane_linear(features, params[f"linear{layer}.weight"], params[f"linear{layer}.bias"]))
        return features
