"""JSON whose large blocks of numbers become arrays without passing through Python lists.

The C beside this file reads those blocks, 2 to 5 times as fast as orjson and numpy together (docs/performance.md), and orjson the rest, in
which a text that no client can send stands for each. What the C does not take, orjson reads, and it finds every fault; without the C it
reads all.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from app.native import JSON_NUMBERS

_Array = npt.NDArray[np.float64]
_POINTER, _LONG = ctypes.c_void_p, ctypes.c_int64

LIFT_FROM_BYTES = 512
"""A smaller body holds no block that is worth the call."""
FREE_LOCK_FROM_BYTES = 256 * 1024
"""From here on the interpreter's lock is given away for the call, a quarter of a millisecond; to get it back may take longer."""
MAX_DIMS, MAX_BLOCKS = 8, 4
LEAST_POWER, LARGEST_POWER = -342, 308
"""As json_numbers.c says."""


class Block(ctypes.Structure):
    """`Block` of json_numbers.c."""

    _fields_ = (*((name, _LONG) for name in ("begin", "end", "first", "n_dims")), ("shape", _LONG * MAX_DIMS))


_Blocks = Block * MAX_BLOCKS


class Library:
    """The compiled C, called with the interpreter's lock kept or given away."""

    def __init__(self, path: str) -> None:
        self._table = tabulate_powers()
        self._powers = self._table.ctypes.data
        self._keeping = _declare(ctypes.PyDLL(path))
        self._freeing = _declare(ctypes.CDLL(path))

    def read_blocks(self, body: bytes) -> tuple[list[Block], _Array]:
        """Where blocks stand in the body, and the numbers of all."""
        numbers, blocks = np.empty(len(body) // 2 + 1), _Blocks()
        call = self._keeping if len(body) < FREE_LOCK_FROM_BYTES else self._freeing
        first = ctypes.byref(ctypes.c_double.from_buffer(numbers.data))  # in a quarter of the time of `numbers.ctypes.data`
        n_blocks = call(body, len(body), self._powers, first, len(numbers), blocks)
        return blocks[:n_blocks], numbers


def _declare(library: ctypes.CDLL) -> Any:
    call = library.read_blocks
    call.argtypes, call.restype = [ctypes.c_char_p, _LONG, _POINTER, _POINTER, _LONG, _POINTER], ctypes.c_int
    return call


def tabulate_powers() -> npt.NDArray[np.uint64]:
    """The powers of ten as json_numbers.c has them: 128 bits, rounded down, and an exponent of two."""
    rows = []
    for power in range(LEAST_POWER, LARGEST_POWER + 1):
        five = 5 ** abs(power)
        shift = 128 - five.bit_length() if power >= 0 else 127 + five.bit_length()
        bits = (five << 128 >> (128 - shift)) if power >= 0 else (1 << shift) // five
        rows.append((bits >> 64, bits % 2**64, (power - shift) % 2**64))
    return np.array(rows, np.uint64)


@cache
def find_library() -> Library | None:
    """The C; None where it was not built."""
    return Library(str(JSON_NUMBERS)) if JSON_NUMBERS.exists() else None


def load_json(body: bytes) -> Any:
    """What orjson makes of a body, but for large blocks under `inputs` or `query`, which are float64. Raises orjson.JSONDecodeError."""
    library = find_library() if len(body) >= LIFT_FROM_BYTES else None
    if library is None:
        return orjson.loads(body)
    blocks, numbers = library.read_blocks(body)
    rest = _replace_blocks(body, blocks) if blocks else None
    if rest is None:
        return orjson.loads(body)
    try:
        document = orjson.loads(rest)
    except orjson.JSONDecodeError:
        return orjson.loads(body)  # which fails as well, and says where
    _put_back(document, {f"\x00{index}": _take(block, numbers) for index, block in enumerate(blocks)})
    return document


def _replace_blocks(body: bytes, blocks: list[Block]) -> bytes | None:
    """The body with a name in the place of each block; None if a text of its own might be one: only this escape makes a NUL."""
    parts: list[bytes] = []
    at = 0
    for index, block in enumerate(blocks):
        parts += body[at : block.begin], b'"\\u0000%d"' % index
        at = block.end
    rest = b"".join((*parts, body[at:]))
    return rest if rest.count(b"\\u0000") == len(blocks) else None


def _put_back(document: Any, arrays: dict[str, _Array]) -> None:
    """The arrays for their names. Of a key that stands twice the last one counts, so a name may be gone."""
    for holder in (document, document.get("support"), document.get("add")):
        if isinstance(holder, dict):
            for key in ("inputs", "query"):
                name = holder.get(key)
                if isinstance(name, str) and name in arrays:
                    holder[key] = arrays[name]


def _take(block: Block, numbers: _Array) -> _Array:
    shape = block.shape[: block.n_dims]
    return numbers[block.first : block.first + math.prod(shape)].reshape(shape)
