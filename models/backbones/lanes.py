"""Layers that take shared or per-lane parameters: one code path for meta-training, adapting and serving, wherever `conv4_native` is not it.

A parameter without a lane axis is shared by all lanes and its layer is one large operation; a parameter with a
leading lane axis is each task's own and its layer becomes a grouped operation. Measured on one core for a second-order
step of 16 lanes of Conv-4 64: grouped convolution 168 ms, unfold with batched matrix multiply 272 ms (2026-11-21).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5


def lane_conv(inputs: Tensor, weight: Tensor, stride: int) -> Tensor:
    """3x3 convolution with padding 1 of every lane by the shared or its own kernel.

    inputs (lanes, n, c_in, h, w); weight (c_out, c_in, 3, 3) or (lanes, c_out, c_in, 3, 3).
    Returns (lanes, n, c_out, h', w').
    """
    lanes, n, c_in, height, width = inputs.shape
    if weight.dim() == 4:
        flat = F.conv2d(inputs.reshape(lanes * n, c_in, height, width), weight, stride=stride, padding=1)
        return flat.view(lanes, n, *flat.shape[1:])
    c_out = weight.shape[1]
    grouped = inputs.transpose(0, 1).reshape(n, lanes * c_in, height, width)
    out = F.conv2d(grouped, weight.reshape(lanes * c_out, c_in, 3, 3), stride=stride, padding=1, groups=lanes)
    return out.view(n, lanes, c_out, *out.shape[2:]).transpose(0, 1)


def lane_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Affine map of every lane: inputs (lanes, n, d_in), weight ([lanes,] d_out, d_in), bias ([lanes,] d_out)."""
    out = inputs @ weight.mT
    return out if bias is None else out + bias.unsqueeze(-2)


def group_normalise(inputs: Tensor, scale: Tensor, shift: Tensor, groups: int) -> Tensor:
    """Each example to zero mean and unit variance within its channel groups (Wu & He 2018, arXiv:1803.08494), then affine.

    inputs (lanes, n, c, h, w); scale and shift ([lanes,] c). Statistics of one example only, so no answer depends on
    another query (law 2). Shared parameters take the fused operator: it saves a fifth of a training step.
    """
    flat = inputs.flatten(0, 1)
    if scale.dim() == 1:
        return F.group_norm(flat, groups, scale, shift, EPSILON).view(inputs.shape)
    return scale_and_shift(F.group_norm(flat, groups, eps=EPSILON).view(inputs.shape), scale, shift)


def scale_and_shift(inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Per-channel affine of (lanes, n, c, h, w) by ([lanes,] c) parameters."""

    def spread(parameter: Tensor) -> Tensor:
        return parameter[..., None, :, None, None]

    return torch.addcmul(spread(shift), inputs, spread(scale))


def scale_channels(inputs: Tensor, scale: Tensor) -> Tensor:
    """(lanes, n, c, h, w) times one number a channel, ([lanes,] c)."""
    return inputs * scale[..., None, :, None, None]


def max_pool(inputs: Tensor) -> Tensor:
    """2x2 maximum of (lanes, n, c, h, w), floor of odd sizes."""
    pooled = F.max_pool2d(inputs.flatten(0, 1), 2)
    return pooled.view(*inputs.shape[:2], *pooled.shape[1:])
