"""One task's adapted state as a device holds it: in one piece of memory, made ready to be answered by.

One allocation holds a state, so every tensor's address is a sum, and what is read together lies together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from models import packed_weights
from models.slab import LINE_BYTES, round_up
from models.support import State


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: so many bytes behind the beginning. stride: in numbers, of a tensor without gaps."""

    begin: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def end(self) -> int:
        return self.begin + self.n_bytes

    def view(self, memory: Tensor) -> Tensor:
        """The tensor in `memory` (uint8)."""
        return memory[self.begin : self.end].view(self.dtype).as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class PackedPlace(Place):
    """Where a weight lies as `models.packed_weights` packs it: no tensor, but what the C multiplies with. base: what it differs from,
    in so many bits a number."""

    base: Tensor
    bits: int

    @property
    def n_bytes(self) -> int:
        return packed_weights.count_packed_bytes(self.base, self.bits)

    def view(self, memory: Tensor) -> Tensor:
        """The tensor, made anew."""
        weight = torch.empty_strided(self.shape, self.stride, dtype=self.dtype)
        packed_weights.unpack(memory[self.begin : self.end].numpy(), self.base, self.bits, weight)
        return weight


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Where the tensors of a state lie: one for all states that are alike, and equal to itself only."""

    places: Mapping[str, Place]
    n_bytes: int


class Row(NamedTuple):
    """What `models.answers_native` knows a state by: where its tensors are, and how many values an answer has."""

    addresses: bytes
    n_values: int


NO_ROW = Row(b"", 0)


@dataclass(frozen=True, eq=False)
class Resident:
    """A state on its device.

    memory: (n_bytes,) uint8. row: made once, when the state became resident; `NO_ROW` where torch answers.
    """

    memory: Tensor
    arrangement: Arrangement
    row: Row = NO_ROW

    @property
    def n_bytes(self) -> int:
        return self.arrangement.n_bytes

    @cached_property
    def state(self) -> State:
        """Its tensors, with a lane axis of one: views, or unpacked, made when somebody asks."""
        return {name: place.view(self.memory) for name, place in self.arrangement.places.items()}


def arrange(tensors: Mapping[str, Tensor], packed: Mapping[str, Tensor] = MappingProxyType({}), bits: int = 0) -> Arrangement:
    """Tensors of such types and shapes one behind the other, each in its own order of memory and from the beginning of a line on.

    packed: the bases of those that stay packed, in so many bits a number.
    """
    places, begin = dict[str, Place](), 0
    for name, tensor in tensors.items():
        where = (begin, tuple(tensor.shape), torch.empty_like(tensor, device="meta").stride(), tensor.dtype)
        places[name] = PackedPlace(*where, packed[name], bits) if name in packed else Place(*where)
        begin = -(-places[name].end // LINE_BYTES) * LINE_BYTES
    return Arrangement(places, round_up(begin))
