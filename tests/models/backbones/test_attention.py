from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.artifact import list_bundled, load_initializer
from models.backbones import build_backbone
from models.backbones.attention import attend, init_attention
from models.errors import InvalidOptions
from models.methods import build_learner
from models.support import Params
from models.training.init_from import take_params

SHAPE = (1, 16, 16)


def conv4(**options: Any) -> Any:
    return build_backbone({"kind": "conv4", "filters": 8, "groups": 2, **options}, SHAPE)


def random_attention(generator: torch.Generator, channels: int = 6, positions: int = 4) -> Params:
    fresh = init_attention(channels, positions, generator)
    return {name: torch.randn(tensor.shape, generator=generator, dtype=torch.float64) for name, tensor in fresh.items()}


def attend_slowly(params: Params, maps: Tensor, heads: int) -> Tensor:
    """One example (channels, h, w): every head and pair of positions in a loop, by the formulas of the paper."""
    channels, height, width = maps.shape
    tokens = maps.reshape(channels, -1).T
    centred = tokens - tokens.mean(1, keepdim=True)
    tokens = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    placed = tokens + params["attention.position"]
    size = channels // heads
    taken = torch.zeros_like(tokens)
    for head in range(heads):
        rows = slice(head * size, (head + 1) * size)
        for position, token in enumerate(placed):
            asked = params["attention.query.weight"][rows] @ token
            scores = torch.stack([asked @ (params["attention.key.weight"][rows] @ other) / math.sqrt(size) for other in placed])
            share = scores.exp() / scores.exp().sum()
            taken[position, rows] = sum(
                s * (params["attention.value.weight"][rows] @ other) for s, other in zip(share, tokens, strict=True)
            )
    return maps + (taken @ params["attention.out.weight"].T).T.reshape(channels, height, width)


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_that_of_the_paper_written_as_loops(heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    params = random_attention(generator)
    maps = torch.randn(2, 3, 6, 2, 2, generator=generator, dtype=torch.float64)
    found = attend(params, maps, heads)
    for lane in range(2):
        for example in range(3):
            torch.testing.assert_close(found[lane, example], attend_slowly(params, maps[lane, example], heads))


def test_lanes_with_parameters_of_their_own_get_what_they_would_get_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    own = [random_attention(generator) for _ in range(3)]
    maps = torch.randn(3, 2, 6, 2, 2, generator=generator, dtype=torch.float64)
    together = attend({name: torch.stack([params[name] for params in own]) for name in own[0]}, maps, 2)
    for lane, params in enumerate(own):
        torch.testing.assert_close(together[lane : lane + 1], attend(params, maps[lane : lane + 1], 2))


def test_the_second_derivatives_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    params = random_attention(generator, channels=2, positions=2)
    maps = torch.randn(1, 1, 2, 1, 2, generator=generator, dtype=torch.float64).requires_grad_()
    names, tensors = list(params), [tensor.requires_grad_() for tensor in params.values()]

    def run(maps: Tensor, *given: Tensor) -> Tensor:
        return attend(dict(zip(names, given, strict=True)), maps, 1)

    assert torch.autograd.gradgradcheck(run, (maps, *tensors))


def test_a_network_that_takes_up_attention_starts_at_its_old_answers() -> None:
    plain, attentive = conv4(), conv4(attention=4)
    old = plain.init(torch.Generator().manual_seed(0))
    params, taken = take_params(old, attentive.init(torch.Generator().manual_seed(1)), "plain")
    assert taken == set(old)
    inputs = torch.rand(2, 3, *SHAPE, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(attentive.features(params, inputs), plain.features(old, inputs))
    moved = {**params, "attention.out.weight": torch.eye(8)}
    assert not torch.allclose(attentive.features(moved, inputs), plain.features(old, inputs), atol=1e-2)


def test_the_bundled_prototype_network_answers_alike_with_attention_added() -> None:
    [folder] = [folder for folder in list_bundled() if folder.name == "omniglot-protonet"]
    initializer = load_initializer(folder)
    spec = {**initializer.card.learner, "backbone": {**initializer.card.learner["backbone"], "attention": 4}}
    learner = build_learner(spec)
    params, _ = take_params(initializer.params, learner.init(torch.Generator().manual_seed(0)), folder.name)
    inputs = torch.rand(1, 4, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(learner.embed(params, inputs), initializer.learner.embed(initializer.params, inputs))  # type: ignore[attr-defined]


@pytest.mark.parametrize("heads", [3, 16, -1])
def test_heads_must_divide_the_channels(heads: int) -> None:
    with pytest.raises(InvalidOptions, match="attention must be 0 or divide the 8 channels"):
        conv4(attention=heads)
