"""The compiled libraries for a CPU, where they were built."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from models.native.build import InstructionSet, library_path, list_instruction_sets

_INT, _LONG, _POINTER = ctypes.c_int, ctypes.c_longlong, ctypes.c_void_p
_CONV4 = {
    "run": [_POINTER, _INT, _INT, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _INT, _INT, _POINTER],
    "answer": [_POINTER, _INT, _INT, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _INT, _INT, _POINTER],
    "pull": [_POINTER, _INT, _INT, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _INT, _POINTER],
    "descend": [_POINTER, _INT, _POINTER],
    "solve": [_POINTER, _INT, _INT, _POINTER],
    "describe": [_POINTER, _POINTER, _INT, _INT, _INT, _POINTER],
    "push": [_POINTER, _INT, _INT, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _INT, _POINTER],
    "push_back": [_POINTER, _INT, _INT, _INT, *(_POINTER,) * 8, _INT, _POINTER],
}
_PACKING: Mapping[str, Sequence[type]] = {
    "pack": [_POINTER, _INT, _POINTER, _LONG, _POINTER],
    "unpack": [_POINTER, _INT, _POINTER, _LONG, _POINTER, _POINTER],
    "measure_weight": [_POINTER, _POINTER, _LONG, _LONG, _POINTER],
    "pack_weight": [_POINTER, _POINTER, _LONG, _LONG, _POINTER, _INT, _POINTER],
    "unpack_weight": [_POINTER, _POINTER, _LONG, _LONG, _INT, _POINTER],
    "bring_back": [_POINTER, _POINTER, _POINTER],
}
_PACKING_ALL = {"measure_all": [_POINTER, _INT], "pack_all": [_POINTER, _INT, _POINTER, _INT]}
MOST_CHANNELS = 512
"""`MAX_CHANNELS` of network.h: what the C has room for."""
_RANK = {"DEFAULT": 0, "AVX2": 1, "AVX512": 2}
_NUMBERS = {torch.float32: "float32", torch.float64: "float64"}


class DescentTask(ctypes.Structure):
    """`Descent` of descent.h."""

    _fields_ = (
        ("blocks", _POINTER),
        *((name, _INT) for name in ("n_blocks", "lanes", "n", "max_way", "most_steps", "divides_body", "at_prototypes")),
        ("feature_scale", ctypes.c_double),
        *((name, _POINTER) for name in ("images", "targets", "mask", "class_mask", "steps", "rates", "each", "shared", "own")),
        *((name, _POINTER) for name in ("weight", "bias", "features", "loss", "accuracy")),
    )


class ClosedTask(ctypes.Structure):
    """`Closed` of closed.h."""

    _fields_ = (
        ("blocks", _POINTER),
        *((name, _INT) for name in ("n_blocks", "lanes", "n", "max_way", "head")),
        *((name, ctypes.c_double) for name in ("middle_weight", "spread", "penalty", "sharpness")),
        *((name, _POINTER) for name in ("images", "targets", "mask", "class_mask", "body", "middle")),
        *((name, _POINTER) for name in ("features", "rows", "frame", "duals", "loss", "accuracy")),
    )


def list_addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """Where each tensor lies, NULL for none, as an array of C. One of numpy takes 3 us more (AMD EPYC, 2026-11-21)."""
    return (_POINTER * len(tensors))(*[None if tensor is None else tensor.data_ptr() for tensor in tensors])


def find_library(dtype: torch.dtype, channels: int) -> ctypes.CDLL | None:
    """The widest `conv4.c` this CPU can run whose vectors divide `channels`; None where none was built."""
    for instructions in list_instruction_sets():
        if dtype in _NUMBERS and has(instructions) and channels * dtype.itemsize % instructions.vector_bytes == 0:
            library = _load_conv4(library_path(instructions, f"conv4-{_NUMBERS[dtype]}"))
            if library is not None:
                return library
    return None


@cache
def find_any_library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The widest `conv4.c` this CPU can run, for what asks for no whole vectors."""
    return find_library(dtype, max(each.vector_bytes for each in list_instruction_sets()))


@cache
def find_packing() -> ctypes.PyDLL | None:
    """The widest `packing.c` this CPU can run; None where none was built.

    Its calls keep the interpreter lock: they take less than a tenth of a millisecond, and to get it back from a busy thread takes longer.
    """
    path = _find_packing_path()
    return load_packing(path) if path is not None else None


@cache
def find_packing_of_many() -> ctypes.CDLL | None:
    """The same for the states of a batch at once, milliseconds in which the interpreter is for others."""
    path = _find_packing_path()
    return load_packing_of_many(path) if path is not None else None


def _find_packing_path() -> Path | None:
    paths = (library_path(instructions, "packing") for instructions in list_instruction_sets() if has(instructions))
    return next((path for path in paths if path.exists()), None)


def has(instructions: InstructionSet) -> bool:
    """Whether this CPU can run them."""
    capability = torch.backends.cpu.get_cpu_capability()
    return instructions.capability is None or _RANK.get(capability, 0) >= _RANK[instructions.capability]


@cache
def _load_conv4(path: Path) -> ctypes.CDLL | None:
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    _declare(library, _CONV4)
    for size in (library.trace_size, library.kept_size):
        size.argtypes, size.restype = [_POINTER, _INT, _INT], _LONG
    return library


def load_packing(path: Path) -> ctypes.PyDLL:
    """One of them."""
    library = ctypes.PyDLL(str(path))
    _declare(library, _PACKING)
    return library


def load_packing_of_many(path: Path) -> ctypes.CDLL:
    """The same library, by calls that do not hold the interpreter lock."""
    library = ctypes.CDLL(str(path))
    _declare(library, _PACKING_ALL)
    return library


def _declare(library: ctypes.CDLL, calls: Mapping[str, Sequence[type]]) -> None:
    for name, arguments in calls.items():
        call = getattr(library, name)
        call.argtypes, call.restype = arguments, _INT


@cache
def find_team() -> int | None:
    """Where torch's own OpenMP starts its threads; None where torch brings none, and the library starts its own.

    Threads of another kind would share the cores with torch's, which wait for work spinning: on two cores 16 lanes took as long on two
    threads as on one (2026-11-21).
    """
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        return ctypes.cast(ctypes.CDLL(str(path)).GOMP_parallel, _POINTER).value
    return None
