"""Fully connected layers by name, for the small networks that methods have beside their backbone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.backbones.lanes import lane_linear
from models.support import Params


def init_dense(name: str, d_in: int, d_out: int, generator: torch.Generator, *, gain: float = 1.0, bias: bool = True) -> Params:
    """`{name}.weight` (d_out, d_in), normal with variance gain^2 / d_in, and with `bias` a `{name}.bias` of zeros.

    A gain of sqrt(2) keeps variance through a ReLU that follows (He et al. 2015); a gain of zero gives a layer that says nothing yet.
    """
    weight = torch.randn(d_out, d_in, generator=generator) * (gain / math.sqrt(d_in))
    return {f"{name}.weight": weight, **({f"{name}.bias": torch.zeros(d_out)} if bias else {})}


def apply_dense(params: Params, name: str, inputs: Tensor) -> Tensor:
    """inputs (..., d_in) to (..., d_out)."""
    return lane_linear(inputs, params[f"{name}.weight"], params.get(f"{name}.bias"))
