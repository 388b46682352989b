"""Fixed point in C for CPUs (`models/native/packing.c`): tensors are read and written where they lie, whatever their strides.

The numbers are those of `models.packing` in torch to the last bit. One call does all tensors of a state, and never gives the interpreter
lock away; one does those of many states, and does.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.resident import Place

Array = npt.NDArray[Any]
COLUMN_AXES = 3
"""The axes that a `Block` of `packing.c` counts along after the lane and the row."""

BLOCK_NUMBERS, WEIGHT_NUMBERS, GROUP_NUMBERS = 9, 7, 5
"""How many integers a `Block` is, a `Weight`, and a `Group`."""

_NO_MEMORY = "no memory for a few rows of a state"
_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(("PyBytes_FromStringAndSize", ctypes.pythonapi))
_address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyBytes_AsString", ctypes.pythonapi))


def is_native(tensors: Sequence[Tensor]) -> bool:
    """Whether `packing.c` can read and write these."""
    return all(tensor.dtype == torch.float32 and tensor.is_cpu and tensor.dim() <= 2 + COLUMN_AXES for tensor in tensors)


def pack(library: ctypes.PyDLL, tensors: Sequence[Tensor], base: Tensor, packed: Tensor) -> None:
    """Writes `packed`, as many bytes as `models.packing.count_packed_bytes` says. Raises MemoryError."""
    blocks = struct.pack(f"{BLOCK_NUMBERS * len(tensors)}q", *_list_blocks(tensors))
    _require_memory(library.pack(blocks, len(tensors), base.data_ptr(), len(base), packed.data_ptr()))


def measure(library: ctypes.CDLL, weights: Sequence[tuple[Tensor, Tensor]]) -> Array:
    """What `models.packed_weights.measure` finds, of (lines, base) of many weights one after the other: (channels of all,) float32."""
    channels = [base.shape[1] for _, base in weights]
    largest = np.empty(sum(channels), dtype=np.float32)
    begins = np.cumsum([0, *channels])[:-1] * largest.itemsize + largest.ctypes.data
    told = [
        (lines.data_ptr(), base.data_ptr(), *base.shape, begin, 0, 0) for (lines, base), begin in zip(weights, begins.tolist(), strict=True)
    ]
    described = np.array(told, dtype=np.int64)
    library.measure_all(described.ctypes.data, len(told))
    return largest


class Writing:
    """States that are about to be packed, all in one call. It holds what they are packed from until then."""

    def __init__(self) -> None:
        self._weights: list[int] = []
        self._blocks: list[int] = []
        self._groups: list[tuple[int, int, int, int, int]] = []
        self._held: list[Tensor | Array] = []

    def add_weight(self, lines: Tensor, base: Tensor, largest: Array, bits: int, packed: int) -> None:
        """`lines` (n, channels) without gaps, to be packed at the address `packed` as `models.packed_weights.pack` does. largest: what
        `measure` found of them, without gaps."""
        self._held += lines, largest
        self._weights += lines.data_ptr(), base.data_ptr(), *base.shape, largest.ctypes.data, bits, packed

    def add_group(self, tensors: Sequence[Tensor], base: Tensor, packed: int) -> None:
        """Tensors to be packed as one, as `models.packing.pack` does."""
        self._held.extend(tensors)
        self._groups.append((len(self._blocks), len(tensors), base.data_ptr(), len(base), packed))
        self._blocks += _list_blocks(tensors)

    def run(self, library: ctypes.CDLL) -> None:
        """Packs them. Raises MemoryError."""
        weights, blocks = np.array(self._weights, dtype=np.int64), np.array(self._blocks, dtype=np.int64)
        groups = np.array(self._groups, dtype=np.int64).reshape(-1, GROUP_NUMBERS)
        groups[:, 0] = blocks.ctypes.data + blocks.itemsize * groups[:, 0]
        if library.pack_all(weights.ctypes.data, len(weights) // WEIGHT_NUMBERS, groups.ctypes.data, len(groups)):
            raise MemoryError(_NO_MEMORY)


def make_bytes(n_bytes: int) -> tuple[bytes, int]:
    """Bytes of any content, and where they lie: to be written before anybody else has them. To copy them would take as long as packing."""
    made = _new_bytes(None, n_bytes)
    return made, _address_of(made)


def are_native(places: Sequence[Place]) -> bool:
    """The same of tensors that are to be made."""
    return all(place.dtype == torch.float32 and len(place.shape) <= 2 + COLUMN_AXES for place in places)


def describe_places(places: Sequence[Place]) -> Array:
    """`Block`s (n, BLOCK_NUMBERS) whose addresses are counted from the beginning of the memory."""
    return np.array([(place.begin, *_describe(place.shape, place.stride)) for place in places], dtype=np.int64)


def unpack(library: ctypes.PyDLL, packed: Array, base: Tensor, memory: Tensor, blocks: Array) -> bool:
    """Writes the tensors that `describe_places` gave; whether all their numbers are finite. `packed` is of the size that these have.
    Raises MemoryError."""
    addresses = base.data_ptr(), len(base), packed.ctypes.data, memory.data_ptr()
    return _require_memory(library.unpack(blocks.ctypes.data, len(blocks), *addresses)) == 1


@dataclass(frozen=True)
class Moves:
    """What becomes of the bytes of a state, as `bring_back` of `packing.c` reads it.

    copies: (n, 3) from, to, bytes. ones: (n, 2) bytes that are one. scales: (n, 2) the first and how many, of packed weights.
    blocks: what `describe_places` gave of the tensors that are packed as one, whose bytes begin at `fine`. base: what they differ from.
    """

    copies: Array
    ones: Array
    scales: Array
    blocks: Array
    base: Tensor
    fine: int

    @cached_property
    def _told(self) -> Array:
        lists = (self.copies, self.ones, self.scales, self.blocks)
        told = [*chain.from_iterable((each.ctypes.data, len(each)) for each in lists), self.base.data_ptr(), len(self.base), self.fine]
        return np.array(told, dtype=np.int64)

    @cached_property
    def address(self) -> int:
        """Where they are told."""
        return self._told.ctypes.data


def list_numbers(numbers: Sequence[tuple[int, ...]]) -> Array:
    """A list of `Moves`, which may be empty."""
    return np.array(numbers, dtype=np.int64).reshape(len(numbers), -1 if numbers else 0)


def bring_back(library: ctypes.PyDLL, encoded: bytes, memory: Tensor, moves: Moves) -> bool:
    """Moves them; whether all numbers are finite. Raises MemoryError."""
    return _require_memory(library.bring_back(encoded, memory.data_ptr(), moves.address)) == 1


def _require_memory(found: int) -> int:
    if found < 0:
        raise MemoryError(_NO_MEMORY)
    return found


def _list_blocks(tensors: Sequence[Tensor]) -> list[int]:
    """The tensors as `Block`s, one after the other."""
    return [number for tensor in tensors for number in (tensor.data_ptr(), *_describe(tensor.shape, tensor.stride()))]


@lru_cache(maxsize=1024)
def _describe(shape: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    """The rest of a `Block` of `packing.c`: rows and their stride, sizes and strides of the column axes. A vector is one row, and so are
    rows of one number."""
    if math.prod(shape[2:]) == 1:
        shape, stride = shape[:2], stride[:2]
    rows = (shape[1], stride[1]) if len(shape) > 2 else (1, 0)
    columns = 2 if len(shape) > 2 else 1
    missing = COLUMN_AXES - len(shape[columns:])
    return *rows, *(1,) * missing, *shape[columns:], *(0,) * missing, *stride[columns:]
