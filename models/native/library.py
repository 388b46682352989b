"""The compiled library for a CPU and a number type, where one was built."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch

from models.native.build import InstructionSet, library_path, list_instruction_sets

_INT, _POINTER = ctypes.c_int, ctypes.c_void_p
_CALLS = {
    "run": [_POINTER, _INT, _INT, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _INT, _INT, _POINTER],
    "pull": [_POINTER, _INT, _INT, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _INT, _POINTER],
    "push": [_POINTER, _INT, _INT, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _INT, _POINTER],
}
_RANK = {"DEFAULT": 0, "AVX2": 1, "AVX512": 2}
_NUMBERS = {torch.float32: "float32", torch.float64: "float64"}


def find_library(dtype: torch.dtype, channels: int) -> ctypes.CDLL | None:
    """The widest library this CPU can run whose vectors divide `channels`; None where none was built. `conv4.c` says what it can do."""
    for instructions in list_instruction_sets():
        if dtype in _NUMBERS and _has(instructions) and channels * dtype.itemsize % instructions.vector_bytes == 0:
            library = _load(library_path(instructions, _NUMBERS[dtype]))
            if library is not None:
                return library
    return None


def _has(instructions: InstructionSet) -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    return instructions.capability is None or _RANK.get(capability, 0) >= _RANK[instructions.capability]


@cache
def _load(path: Path) -> ctypes.CDLL | None:
    if not path.exists():
        return None
    library = ctypes.CDLL(str(path))
    for name, arguments in _CALLS.items():
        call = getattr(library, name)
        call.argtypes, call.restype = arguments, _INT
    library.trace_size.argtypes, library.trace_size.restype = [_POINTER, _INT, _INT], ctypes.c_longlong
    return library


@cache
def find_team() -> int | None:
    """Where torch's own OpenMP starts its threads; None where torch brings none, and the library starts its own.

    Threads of another kind would share the cores with torch's, which wait for work spinning: on two cores 16 lanes took as long on two
    threads as on one (2026-11-21).
    """
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        return ctypes.cast(ctypes.CDLL(str(path)).GOMP_parallel, _POINTER).value
    return None
