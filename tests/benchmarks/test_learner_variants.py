"""Learners that only a benchmark has are what they say: no C, which knows none of them, takes their place."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks import inner_scale, normalisation
from models.backbones import Conv4
from models.methods.class_head import FEATURE_POWER
from models.methods.maml import Maml
from models.support import make_support

IMAGE = (1, 28, 28)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(1, 6, *IMAGE, generator=torch.Generator().manual_seed(1))


def features(backbone: Conv4, images: Tensor) -> Tensor:
    return backbone.features(Conv4(IMAGE).init(torch.Generator().manual_seed(0)), images)


@pytest.mark.parametrize(("n_sources", "seen"), [(0, 6), (3, 3)])
def test_shared_statistics_are_of_the_sources(images: Tensor, n_sources: int, seen: int) -> None:
    backbone = normalisation.SharedStatistics(IMAGE, n_sources=n_sources)
    before = features(backbone, images)[:, 0]
    for changed in range(1, 6):
        others = images.clone()
        others[:, changed] = 0.5
        assert torch.equal(features(backbone, others)[:, 0], before) == (changed >= seen)


def test_unscaled_features_undo_what_the_head_scales(images: Tensor) -> None:
    backbone = inner_scale.UnscaledConv4(IMAGE)
    scale = math.sqrt(backbone.feature_dim / FEATURE_POWER)
    torch.testing.assert_close(features(backbone, images), scale * features(Conv4(IMAGE), images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", [normalisation.SharedStatistics(IMAGE), inner_scale.UnscaledConv4(IMAGE)])
def test_an_inner_loop_without_a_derivative_is_that_of_meta_training(variant: Conv4, images: Tensor) -> None:
    learner = Maml("classification", variant)
    params = learner.init(torch.Generator().manual_seed(0))
    support = make_support(images[0], torch.tensor([0, 0, 1, 1, 2, 2]), n_way=3)
    served, trained = (learner.adapt(params, support, 3, differentiable=differentiable) for differentiable in (False, True))
    for name, tensor in served.state.items():
        torch.testing.assert_close(tensor, trained.state[name].detach(), rtol=1e-3, atol=1e-4)
