"""The one protocol of every learner: a batch of support sets in, adapted states out; queries in, logits out.

Learners are frozen values without tensors. Meta-parameters go in as `params`, adapted states come out:
nothing is written, so many tenants share one learner, and the same call serves training and serving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from models.support import Params, State, Support

if TYPE_CHECKING:
    from models.episodes import EpisodeBatch

Kind = Literal["classification", "regression"]

BODY = "body."
"""Learners with parameters besides their backbone's name the backbone's so; one that is its backbone has its names as they are."""


def take_body(params: Params) -> Params:
    """The parameters of the backbone among a learner's, by their own names."""
    return {name.removeprefix(BODY): tensor for name, tensor in params.items() if name.startswith(BODY)}


@dataclass(frozen=True)
class Adaptation:
    """What one batched adaptation yields.

    state: tensors with a leading lane axis (see `models.support.State`)
    loss, accuracy: (lanes, steps + 1) on the support set before each inner step and after the last, detached;
    a method without inner steps gives one column; accuracy is NaN for regression.
    features: (lanes, n_support, d), what `Embeds.embed` says of the support set, where the method computed it anyway; else None
    """

    state: State
    loss: Tensor
    accuracy: Tensor
    features: Tensor | None = None


class Learner(Protocol):
    """A backbone and a method. `params` are meta-parameters without a lane axis."""

    @property
    def kind(self) -> Kind: ...

    @property
    def input_shape(self) -> tuple[int, ...]: ...

    @property
    def default_steps(self) -> int:
        """Inner steps when the caller names none; 0 for a method that has none."""
        ...

    def init(self, generator: torch.Generator) -> Params:
        """Fresh meta-parameters, float32 on the CPU, a function of the generator alone."""
        ...

    def adapt(self, params: Params, support: Support, steps: int | None = None, *, differentiable: bool = False) -> Adaptation:
        """Adapts every lane to its own support set. With `differentiable`, the state keeps its graph to `params`."""
        ...

    def predict(self, params: Params, state: State, queries: Tensor) -> Tensor:
        """Logits (lanes, n_query, max_way), minus infinity for classes a lane does not have;
        or (lanes, n_query, n_out) for regression. queries (lanes, n_query, *input_shape)."""
        ...


# What a learner may be able to do besides: a method has these by having the function, and nothing else need be declared.


@runtime_checkable
class HasMetaLoss(Protocol):
    """A learner with a meta-training objective of its own; the others get the mean loss on the queries after adaptation."""

    def meta_loss(self, params: Params, batch: EpisodeBatch, progress: float) -> tuple[Tensor, float]:
        """A scalar whose gradient in `params` is the meta-gradient, and the accuracy on the queries (NaN for regression).
        `progress` is the share of the training that is done, in [0, 1)."""
        ...


@runtime_checkable
class Embeds(Protocol):
    """A learner whose meta-parameters hold an embedding of single inputs: task embeddings are made from it."""

    def embed(self, params: Params, inputs: Tensor) -> Tensor:
        """inputs (lanes, n, *input_shape) to features (lanes, n, d), before any adaptation."""
        ...


@runtime_checkable
class Explains(Protocol):
    """A learner that can say which support examples drove an answer."""

    def explain(self, params: Params, state: State, support: Support, queries: Tensor) -> Tensor:
        """Signed weights (lanes, n_query, n_support): how much each example spoke for the predicted class (or value);
        the absolute values of a query sum to one, and padding has zero."""
        ...


@runtime_checkable
class AdaptsEach(Protocol):
    """A learner that may have lanes with different numbers of inner steps in one batch: those that have taken theirs leave it."""

    def adapt_each(self, params: Params, support: Support, steps: Sequence[int]) -> Adaptation | None:
        """As `Learner.adapt`, every lane after its own number of steps; what follows a lane's last figure in `loss` and `accuracy` is
        that figure. None where there is no such way: for these inputs, on their device, or for what the learner's options ask for."""
        ...


@dataclass(frozen=True)
class RowHead:
    """Answers that are read off features by one row of numbers for each class or value.

    rows, offsets, centre: names of the state's tensors (1, n, d), (1, n) and (1, d), or of meta-parameters without the lane; "" for none.
    compares: by the product of row and features, these times `scale`; or by minus their squared distance.
    on_sphere: features are brought to length one, after `centre` was taken off. sharpness: of the answer, offset included.
    """

    rows: str
    offsets: str = ""
    centre: str = ""
    compares: Literal["product", "distance"] = "product"
    on_sphere: bool = False
    scale: float = 1.0
    sharpness: float = 1.0


@runtime_checkable
class ReadsRows(Protocol):
    """A learner whose `predict` is a RowHead on the features of its backbone: on a CPU both are one call of C."""

    def row_head(self, params: Params) -> RowHead | None:
        """What `predict` does behind the backbone; None when it is more than that."""
        ...


@runtime_checkable
class Restarts(Protocol):
    """A learner with initial weights that another task's adapted weights may replace: warm starts need it."""

    def restart(self, params: Params, state: State) -> Params:
        """`params` with the initial weights taken from a state of one lane."""
        ...
