"""Episodes: batches of small learning problems, each a support set and the queries that judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from models.learner import Kind
from models.support import Support, stack_supports

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class EpisodeShape:
    """How large the episodes of a batch are. n_way is 0 for regression; n_query counts per class (in all, for regression)."""

    n_way: int
    k_shot: int
    n_query: int
    tasks: int


@dataclass(frozen=True)
class EpisodeBatch:
    """One episode per lane.

    query_inputs (lanes, n_query, *input_shape); query_targets (lanes, n_query) int64, or (lanes, n_query, n_out) float.
    """

    support: Support
    query_inputs: Tensor
    query_targets: Tensor

    def to(self, device: torch.device | str) -> EpisodeBatch:
        """The same episodes on `device`."""
        return replace(
            self,
            support=self.support.to(device),
            query_inputs=self.query_inputs.to(device),
            query_targets=self.query_targets.to(device),
        )


def stack_episodes(batches: Sequence[EpisodeBatch]) -> EpisodeBatch:
    """Joins batches of episodes of one shape."""
    return EpisodeBatch(
        support=stack_supports([batch.support for batch in batches]),
        query_inputs=torch.cat([batch.query_inputs for batch in batches]),
        query_targets=torch.cat([batch.query_targets for batch in batches]),
    )


class EpisodeSource(Protocol):
    """Where episodes come from. A draw is a function of the generator's state alone."""

    @property
    def kind(self) -> Kind: ...

    @property
    def input_shape(self) -> tuple[int, ...]: ...

    def draw(self, shape: EpisodeShape, generator: torch.Generator) -> EpisodeBatch: ...
