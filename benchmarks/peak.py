"""The arithmetic peak of a CPU: fused multiply-adds in registers, by a loop in C that is compiled when it is first needed."""

from __future__ import annotations

import ctypes
import subprocess
import timeit
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from models.native.build import FLAGS, InstructionSet, find_compiler, list_instruction_sets
from models.native.library import has

SOURCE = Path(__file__).with_name("peak.c")
CHAINS = 12
"""Sums that do not wait for each other: two units that take four cycles need eight, and AVX2 has registers for fourteen (2026-11-21, an
EPYC of Zen 5, GFLOP/s on one thread: 8 chains 233, 12 chains 243, 16 chains 244; with AVX2 120, 122 and 76)."""
ROUNDS, REPETITIONS = 4_000_000, 8
MultiplyAdd = Callable[[int, float, float], float]


def measure_peak_rate(device: str = "cpu") -> float | None:
    """FLOP/s of as many threads as torch has now; None on a GPU, and where nothing can be compiled."""
    compiler, instructions = find_compiler(), find_instruction_set()
    if device != "cpu" or compiler is None or instructions is None:
        return None
    multiply_add = load_multiply_add(compiler, instructions)
    if multiply_add is None:
        return None
    return time_threads(multiply_add, torch.get_num_threads(), instructions.vector_bytes)


def time_threads(multiply_add: MultiplyAdd, threads: int, vector_bytes: int) -> float:
    """FLOP/s of all threads together, the best of a few. The call lets the interpreter go, so they run at once."""
    flops = threads * ROUNDS * CHAINS * 2 * (vector_bytes // 4)
    with ThreadPoolExecutor(threads) as pool:
        work = partial(pool.map, lambda _: multiply_add(ROUNDS, 0.5, 0.5), range(threads))
        return flops / min(timeit.repeat(lambda: list(work()), number=1, repeat=REPETITIONS))


def find_instruction_set() -> InstructionSet | None:
    """The widest that this CPU has, of those that the C of `models` knows."""
    return next(filter(has, list_instruction_sets()), None)


@cache
def load_multiply_add(compiler: str, instructions: InstructionSet) -> MultiplyAdd | None:
    """The loop; None where the compiler fails. The file is needed no more once it is loaded."""
    sizes = [f"-DVECTOR_BYTES={instructions.vector_bytes}", f"-DCHAINS={CHAINS}"]
    with TemporaryDirectory() as folder:
        built = Path(folder) / "peak.so"
        try:
            command = [compiler, *FLAGS, *instructions.flags, *sizes, str(SOURCE), "-o", str(built)]
            subprocess.run(command, check=True, capture_output=True)
            multiply_add = ctypes.CDLL(str(built)).multiply_add
        except (OSError, subprocess.CalledProcessError):
            return None
    multiply_add.argtypes, multiply_add.restype = [ctypes.c_longlong, ctypes.c_float, ctypes.c_float], ctypes.c_float
    return multiply_add
