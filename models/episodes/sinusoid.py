"""Sinusoid regression (Finn et al. 2017, arXiv:1703.03400, section 5.1): each task is one amplitude and one phase."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.episodes.episode import EpisodeBatch, EpisodeShape
from models.errors import InvalidOptions
from models.learner import Kind
from models.support import Support

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, math.pi)
X = (-5.0, 5.0)


@dataclass(frozen=True)
class Sinusoid:
    """y = amplitude * sin(x - phase), all three drawn uniformly; there is no split, every draw is a new task."""

    kind: Kind = "regression"
    input_shape: tuple[int, ...] = (1,)

    def draw(self, shape: EpisodeShape, generator: torch.Generator) -> EpisodeBatch:
        if min(shape.k_shot, shape.n_query, shape.tasks) < 1:
            raise InvalidOptions(f"k_shot, n_query and tasks must be at least 1, got {shape}")
        tasks, k_shot = shape.tasks, shape.k_shot
        amplitude = _draw_uniform(AMPLITUDE, (tasks, 1, 1), generator)
        phase = _draw_uniform(PHASE, (tasks, 1, 1), generator)
        x = _draw_uniform(X, (tasks, k_shot + shape.n_query, 1), generator)  # (tasks, n, 1)
        y = amplitude * torch.sin(x - phase)
        every = torch.ones(tasks, k_shot, dtype=torch.bool)
        support = Support(x[:, :k_shot], y[:, :k_shot], every, torch.ones(tasks, 0, dtype=torch.bool))
        return EpisodeBatch(support, x[:, k_shot:], y[:, k_shot:])


def _draw_uniform(bounds: tuple[float, float], size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = bounds
    return torch.rand(size, generator=generator) * (high - low) + low
