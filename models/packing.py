"""Tensors of one lane (1, rows, ...) in fixed point: one float32 scale for a row, and 20 bits for each of its numbers.

Many tensors, each with its own length of rows, are packed as one: all scales, then the upper bits of all numbers as int16, then their lower
four bits, those of the first half of the numbers beside those of the second. So it is a few operations on whole vectors of ordinary
integers, however many tensors there are. `models.packed_weights` is for the large ones among them.

Torch is the reference and the way where `models/native` was not built; both give the same bytes and the same numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from models import packing_native
from models.native.library import find_packing
from models.packed_weights import SCALE_BYTES, find_scale
from models.resident import Place
from models.support import is_finite

Array = npt.NDArray[Any]

BITS = 20
Shape = tuple[int, int]
"""Rows and columns of a tensor."""

UPPER_BYTES = 2


def count_packed_bytes(shapes: Sequence[torch.Size]) -> int:
    """Bytes of packed tensors of such shapes."""
    return sum(_sizes([_fold(shape) for shape in shapes]))


def pack(tensors: Sequence[Tensor], base: Tensor) -> Tensor:
    """Float32 tensors on the CPU as uint8. No number moves by more than 2**-20 of its row's largest.

    base: a vector; as many of the first numbers are stored as their difference from it. A row that is not finite unpacks to such.
    """
    library = _find_library(tensors)
    if library is None:
        return _pack(tensors, base)
    packed = torch.empty(count_packed_bytes([tensor.shape for tensor in tensors]), dtype=torch.uint8)
    packing_native.pack(library, tensors, base, packed)
    return packed


@dataclass(frozen=True)
class Room:
    """Where tensors that are packed as one lie in the memory of a state: float32, on the CPU."""

    places: tuple[Place, ...]

    @cached_property
    def packed_bytes(self) -> int:
        """How many bytes they are packed in."""
        return count_packed_bytes([torch.Size(place.shape) for place in self.places])

    @cached_property
    def blocks(self) -> Array:
        """What the C calls them; counted from the beginning of the memory."""
        return packing_native.describe_places(self.places)


def unpack(packed: Array, base: Tensor, memory: Tensor, room: Room) -> bool:
    """Writes to `memory` where `room` says, and says whether every number is finite: those from bytes of chance may not be.

    packed: uint8, as many as `room` says.
    """
    library = find_packing() if packing_native.are_native(room.places) else None
    if library is None:
        return _unpack(torch.from_numpy(packed.copy()), base, [place.view(memory) for place in room.places])
    return packing_native.unpack(library, packed, base, memory, room.blocks)


def _find_library(tensors: Sequence[Tensor]) -> ctypes.PyDLL | None:
    return find_packing() if packing_native.is_native(tensors) else None


def _pack(tensors: Sequence[Tensor], base: Tensor) -> Tensor:
    values, blocks = torch.cat([tensor.flatten() for tensor in tensors]), [_fold(tensor.shape) for tensor in tensors]
    values[: len(base)] -= base
    scale = find_scale(torch.cat([part.abs().amax(1) for part in _split(values, blocks)]), BITS)
    for part, row_scale in zip(_split(values, blocks), _split_scale(scale, blocks), strict=True):
        part.div_(row_scale)
    numbers = values.round_().to(torch.int32)
    lower = numbers.to(torch.uint8).bitwise_and_(15)
    half = (len(lower) + 1) // 2
    lower[: len(lower) - half] |= lower[half:] << 4
    return torch.cat([scale.view(torch.uint8), (numbers >> 4).to(torch.int16).view(torch.uint8), lower[:half]])


def _unpack(packed: Tensor, base: Tensor, into: Sequence[Tensor]) -> bool:
    blocks = [_fold(tensor.shape) for tensor in into]
    scale, upper, pairs = torch.split(packed, _sizes(blocks))
    numbers = upper.view(torch.int16)
    lower = torch.cat([pairs & 15, pairs >> 4])[: len(numbers)]
    values = numbers.to(torch.float32).mul_(16).add_(lower)
    for part, row_scale in zip(_split(values, blocks), _split_scale(scale.view(torch.float32), blocks), strict=True):
        part.mul_(row_scale)
    values[: len(base)] += base
    for tensor, part in zip(into, _split(values, blocks), strict=True):
        tensor.copy_(part.view(tensor.shape))
    return is_finite(values)


def _fold(shape: torch.Size) -> Shape:
    """A row is one of the first axis after the lane; a vector is one row, and so are rows of one number, whose scales would cost more."""
    rows = shape[1] if len(shape) > 2 and shape.numel() > shape[1] else 1
    return rows, shape.numel() // rows


def _sizes(blocks: Sequence[Shape]) -> list[int]:
    """Bytes of scales, of upper bits and of pairs of lower bits."""
    numbers = sum(rows * columns for rows, columns in blocks)
    return [SCALE_BYTES * sum(rows for rows, _ in blocks), UPPER_BYTES * numbers, (numbers + 1) // 2]


def _split(values: Tensor, blocks: Sequence[Shape]) -> list[Tensor]:
    """Views of a vector, (rows, columns) each."""
    parts = torch.split(values, [rows * columns for rows, columns in blocks])
    return [part.view(shape) for part, shape in zip(parts, blocks, strict=True)]


def _split_scale(scale: Tensor, blocks: Sequence[Shape]) -> list[Tensor]:
    return _split(scale, [(rows, 1) for rows, _ in blocks])
