"""Small random affine changes of images, one per image, for meta-training only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """The largest change of each kind, in both directions. shift in pixels, rotation in degrees, scale as a share."""

    shift: float = 2.0
    rotation: float = 10.0
    scale: float = 0.1


def augment_images(images: Tensor, most: Augmentation, generator: torch.Generator) -> Tensor:
    """images (n, channels, height, width) float, each moved, turned and resized by its own random amount.

    Outside is dark for one channel (ink); colours go on as at their border, for a photograph has no ground.
    """
    n, channels, height, width = images.shape
    amounts = torch.rand(4, n, generator=generator).mul_(2).sub_(1)  # in [-1, 1]
    angle = amounts[0] * math.radians(most.rotation)
    zoom = 1 + amounts[1] * most.scale
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift_x, shift_y = amounts[2] * (2 * most.shift / width), amounts[3] * (2 * most.shift / height)
    theta = torch.stack([cos, -sin, shift_x, sin, cos, shift_y], dim=1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, 1, height, width], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros" if channels == 1 else "border", align_corners=False)
