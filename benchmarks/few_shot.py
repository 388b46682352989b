"""The problems that `adapt` and `train` time: a learner with its weights, and a batch of tasks; and the same for the peers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain_conv4 import PlainConv4, make_plain
from models.backbones import Conv4
from models.episodes import EpisodeBatch, EpisodeShape, open_episodes
from models.episodes.location import VARIABLE, find_data_folder
from models.episodes.omniglot import FILE
from models.installed import lay_out_body
from models.learner import Learner, take_body
from models.methods import build_learner
from models.support import Params, Support, make_support, stack_supports

IMAGE = (1, 28, 28)
INNER_LR = 0.1
SEED = 1


@dataclass(frozen=True)
class Problem:
    """Tasks of one shape for one learner. params and the episodes lie on the device that is measured."""

    learner: Learner
    backbone: Conv4
    params: Params
    episodes: EpisodeBatch
    n_way: int
    steps: int
    lr: float

    @property
    def inputs(self) -> Tensor:
        """(lanes, n_support, *image)"""
        return self.episodes.support.inputs

    @property
    def targets(self) -> Tensor:
        """(lanes, n_support)"""
        return self.episodes.support.targets

    @property
    def tasks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Support inputs and targets, one task after the other."""
        return zip(self.inputs, self.targets, strict=True)

    def make_plain(self) -> PlainConv4:
        """The peers' network with our weights."""
        return make_plain(self.backbone, take_body(self.params) or self.params, self.n_way).to(self.inputs)

    def take(self, tasks: int) -> Problem:
        """The first tasks."""
        support, batch = self.episodes.support, self.episodes
        first = Support(support.inputs[:tasks], support.targets[:tasks], support.mask[:tasks], support.class_mask[:tasks])
        return replace(self, episodes=EpisodeBatch(first, batch.query_inputs[:tasks], batch.query_targets[:tasks]))

    def to_float64(self, tasks: int) -> Problem:
        """The first tasks with twice the digits: there all must agree, and in float32 they cannot.

        Where two places of a pooling window differ in the last digit, each order of summation chooses its own, and the weights after a
        few steps are a thousandth apart."""
        first = self.take(tasks)
        support, batch = first.episodes.support, first.episodes
        exact = Support(support.inputs.double(), support.targets, support.mask, support.class_mask)
        episodes = EpisodeBatch(exact, batch.query_inputs.double(), batch.query_targets)
        params = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in self.params.items()}
        return replace(self, params=params, episodes=episodes)


def make_problem(method: str, downsample: str, shape: EpisodeShape, steps: int, device: str = "cpu", **options: Any) -> Problem:
    """A Conv-4 64 as the bundled ones are, with the weights a training starts from: what they are changes no time.

    Nobody is charged for preparing weights: ours lie in memory as an installed initializer's do, and the peers have them in their modules.
    """
    spec = {"method": method, "kind": "classification", "input_shape": list(IMAGE), **options}
    learner = build_learner({**spec, "backbone": {"kind": "conv4", "filters": 64, "downsample": downsample, "norm": "group", "groups": 8}})
    backbone = Conv4(IMAGE, 64, "stride" if downsample == "stride" else "pool")
    drawn = learner.init(torch.Generator().manual_seed(SEED))
    params = lay_out_body(learner, {name: tensor.to(device) for name, tensor in drawn.items()})
    return Problem(learner, backbone, params, draw_episodes(shape).to(device), shape.n_way, steps, INNER_LR)


def name_data() -> str:
    """`omniglot` when it is in the folder that INNERLOOP_DATA_DIR names, else `random`: a benchmark downloads nothing."""
    return "omniglot" if (find_data_folder() / FILE).exists() else "random"


def describe_data() -> str:
    """For the report."""
    return "Omniglot, test classes" if name_data() == "omniglot" else f"random pixels; {VARIABLE} names no folder with {FILE}"


def draw_episodes(shape: EpisodeShape) -> EpisodeBatch:
    """Episodes of test classes, or of random pixels."""
    generator = torch.Generator().manual_seed(SEED)
    if name_data() == "omniglot":
        return open_episodes("omniglot", "test").draw(shape, generator)
    n_support = shape.n_way * shape.k_shot
    targets = torch.arange(shape.n_way).repeat(shape.k_shot)
    supports = [make_support(torch.rand(n_support, *IMAGE, generator=generator), targets, shape.n_way) for _ in range(shape.tasks)]
    queries = torch.rand(shape.tasks, shape.n_way * shape.n_query, *IMAGE, generator=generator)
    query_targets = torch.arange(shape.n_way).repeat(shape.tasks, shape.n_query)
    return EpisodeBatch(stack_supports(supports), queries, query_targets)
