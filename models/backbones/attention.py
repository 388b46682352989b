"""Self-attention over the positions of a map (Vaswani et al. 2017, arXiv:1706.03762), added to what it looked at.

Convolution sees a neighbourhood; this lets every place of a character see every other one. The output projection starts at zero, so
that a network which takes it up answers at first exactly as without it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.backbones.lanes import EPSILON, lane_linear
from models.support import Params

POSITION = "attention.position"
QUERY, KEY, VALUE, OUT = (f"attention.{name}.weight" for name in ("query", "key", "value", "out"))


def init_attention(channels: int, positions: int, generator: torch.Generator) -> Params:
    """Projections (channels, channels) of variance-keeping size, places (positions, channels) near zero, an output of zero."""
    params = {name: torch.randn(channels, channels, generator=generator) / math.sqrt(channels) for name in (QUERY, KEY, VALUE)}
    params[OUT] = torch.zeros(channels, channels)
    params[POSITION] = 0.02 * torch.randn(positions, channels, generator=generator)
    return params


def attend(params: Params, maps: Tensor, heads: int) -> Tensor:
    """`maps` (lanes, n, channels, h, w) plus what each position took from all positions of the same example.

    Parameters are shared or have a leading lane axis. Positions are normalised over their channels first, for the maps of one example
    may be many times larger than another's. Written out, not F.scaled_dot_product_attention: MAML needs its second derivative.
    """
    lanes, n, channels, height, width = maps.shape
    tokens = F.layer_norm(maps.flatten(3).mT, (channels,), eps=EPSILON)  # (lanes, n, positions, channels)
    places = params[POSITION]
    placed = tokens + (places if places.dim() == 2 else places.unsqueeze(1))
    query, key, value = (
        _split_heads(_project(source, params[name]), heads) for source, name in ((placed, QUERY), (placed, KEY), (tokens, VALUE))
    )
    weights = (query @ key.mT / math.sqrt(channels // heads)).softmax(-1)  # (lanes, n, heads, positions, positions)
    taken = (weights @ value).transpose(2, 3).flatten(3)  # (lanes, n, positions, channels)
    return maps + _project(taken, params[OUT]).mT.reshape(lanes, n, channels, height, width)


def _project(tokens: Tensor, weight: Tensor) -> Tensor:
    """Every position of (lanes, n, positions, channels) by ([lanes,] channels, channels): one product a lane, or one for all."""
    return lane_linear(tokens.flatten(1, 2), weight).view(tokens.shape)


def _split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(lanes, n, positions, channels) as (lanes, n, heads, positions, channels / heads)."""
    return tokens.view(*tokens.shape[:-1], heads, tokens.shape[-1] // heads).transpose(2, 3)
