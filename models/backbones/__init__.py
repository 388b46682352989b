"""Backbones: networks that turn inputs into features, with shared or per-lane parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from models.backbones.conv4 import Conv4
from models.backbones.conv4_descent import Descent
from models.backbones.conv4_native import Network
from models.backbones.gated_conv4 import GatedConv4
from models.backbones.mlp import Mlp
from models.errors import InvalidOptions
from models.options import parse_options
from models.support import Params

__all__ = [
    "Backbone",
    "Conv4",
    "Descends",
    "GatedConv4",
    "LaysOut",
    "Mlp",
    "Penalised",
    "RunsInC",
    "build_backbone",
    "descends",
    "lay_out",
    "runs_in_c",
]

KINDS: Mapping[str, type[Conv4] | type[GatedConv4] | type[Mlp]] = {"conv4": Conv4, "gated-conv4": GatedConv4, "mlp": Mlp}


class Backbone(Protocol):
    """A network as a value; its parameters travel beside it."""

    @property
    def input_shape(self) -> tuple[int, ...]: ...

    @property
    def feature_dim(self) -> int: ...

    def init(self, generator: torch.Generator) -> Params: ...

    def features(self, params: Params, inputs: Tensor) -> Tensor: ...


@runtime_checkable
class Penalised(Protocol):
    """A backbone whose parameters also decide what it costs: meta-training adds that to its loss, by `outer.cost_weight`."""

    def cost(self, params: Params) -> Tensor:
        """A scalar, 1 for the most expensive form, whose gradient in `params` makes the backbone cheaper."""
        ...


@runtime_checkable
class RunsInC(Protocol):
    """A backbone that a CPU may run in C."""

    @property
    def input_shape(self) -> tuple[int, ...]: ...

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """In the order the C reads them."""
        ...

    def find_native(self, inputs: Tensor) -> Network | None:
        """What runs it on such inputs; None where torch does."""
        ...


@runtime_checkable
class Descends(Protocol):
    """A backbone over which whole inner loops of a linear class head may run in one call."""

    def find_descent(self, inputs: Tensor) -> Descent | None:
        """What runs them over inputs (lanes, n, *input_shape); None where nothing does."""
        ...


@runtime_checkable
class LaysOut(Protocol):
    """A backbone that reads its parameters fastest when they lie in memory in its own way."""

    def lay_out(self, params: Params) -> Params:
        """The same parameters, laid out so; those that are already are not copied."""
        ...


def runs_in_c(backbone: Backbone) -> TypeGuard[RunsInC]:
    """Whether it is a `RunsInC`; asked of the protocol that takes 7 us, of an adaptation that takes 110 (AMD EPYC, 2026-11-21)."""
    return hasattr(type(backbone), "find_native")


def descends(backbone: Backbone) -> TypeGuard[Descends]:
    """Whether it is a `Descends`, likewise."""
    return hasattr(type(backbone), "find_descent")


def lay_out(backbone: Backbone, params: Params) -> Params:
    """A backbone's parameters, in memory the way it reads them fastest."""
    return backbone.lay_out(params) if isinstance(backbone, LaysOut) else params


def build_backbone(spec: Mapping[str, Any], input_shape: tuple[int, ...]) -> Backbone:
    """The backbone that `spec` describes: {"kind": "conv4" | "gated-conv4" | "mlp", ...its fields}. Raises InvalidOptions."""
    options = dict(spec)
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidOptions(f"backbone.kind must be one of {sorted(KINDS)}, got {kind!r}")
    parsed = parse_options(KINDS[kind], options, f"backbone {kind}", given=frozenset({"input_shape"}), prefix="backbone.")
    return KINDS[kind](input_shape=input_shape, **parsed)
