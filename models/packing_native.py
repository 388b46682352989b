"""Fixed point in C for CPUs (`models/native/packing.c`): tensors are read and written where they lie, whatever their strides.

The numbers are those of `models.packing` in torch to the last bit. One call does all tensors, and never gives the interpreter lock away.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.resident import Place

Array = npt.NDArray[Any]
COLUMN_AXES, BLOCK_NUMBERS = 3, 9
"""Of a `Block` of `packing.c`: the axes it counts along after the lane and the row, and how many integers it is."""


def is_native(tensors: Sequence[Tensor]) -> bool:
    """Whether `packing.c` can read and write these."""
    return all(tensor.dtype == torch.float32 and tensor.is_cpu and tensor.dim() <= 2 + COLUMN_AXES for tensor in tensors)


def pack(library: ctypes.PyDLL, tensors: Sequence[Tensor], base: Tensor, packed: Tensor) -> None:
    """Writes `packed`, as many bytes as `models.packing.count_packed_bytes` says. Raises MemoryError."""
    layouts = ((tensor.data_ptr(), *_describe(tensor.shape, tensor.stride())) for tensor in tensors)
    blocks = struct.pack(f"{BLOCK_NUMBERS * len(tensors)}q", *chain.from_iterable(layouts))
    _call(library.pack, blocks, len(tensors), base, packed.data_ptr())


def are_native(places: Sequence[Place]) -> bool:
    """The same of tensors that are to be made."""
    return all(place.dtype == torch.float32 and len(place.shape) <= 2 + COLUMN_AXES for place in places)


def describe_places(places: Sequence[Place]) -> Array:
    """`Block`s (n, BLOCK_NUMBERS) whose addresses are counted from the beginning of the memory."""
    return np.array([(place.begin, *_describe(place.shape, place.stride)) for place in places], dtype=np.int64)


def unpack(library: ctypes.PyDLL, packed: Array, base: Tensor, memory: Tensor, blocks: Array) -> bool:
    """Writes the tensors that `describe_places` gave; whether all their numbers are finite. `packed` is of the size that these have.
    Raises MemoryError."""
    placed = blocks.copy()
    placed[:, 0] += memory.data_ptr()
    return _call(library.unpack, placed.tobytes(), len(placed), base, packed.ctypes.data) == 1


def _call(function: ctypes._NamedFuncPointer, blocks: bytes, n_blocks: int, base: Tensor, packed: int) -> int:
    found: int = function(blocks, n_blocks, base.data_ptr(), len(base), packed)
    if found < 0:
        raise MemoryError("no memory for a few rows of a state")
    return found


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
