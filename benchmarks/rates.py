"""How fast this machine computes, measured in the run whose rows are held against it, with that run's threads.

Two rates: a large float32 matrix product, which is what `limit_fraction` speaks of, and bare multiply-adds, of which `peak_fraction` does.
A library may not know a CPU well, so the better product of two counts, and even that can be far from the peak: on an EPYC of Zen 5 torch
reached 104 GFLOP/s on one thread, numpy 119 and multiply-adds alone 250 (2026-11-21).
"""

from __future__ import annotations

import os
import subprocess
import sys
import timeit
from dataclasses import dataclass

import torch

from benchmarks.catalogue import ROOT
from benchmarks.numpy_product import MATRIX_SIZE, REPETITIONS
from benchmarks.peak import measure_peak_rate

MATRIX_SIZE_CUDA = 8192
ROUNDS = 3
"""A third of a second each on two cores; two of five times a single one met somebody else's job and was half of the others (2026-11-21)."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Where the libraries that numpy is built with look for their number of threads."""


@dataclass(frozen=True)
class Rates:
    """FLOP/s, or calls/s (`of_calls`). peak: None on a GPU, and where nothing can be compiled."""

    matmul: float
    peak: float | None

    def of_calls(self, flops: float) -> Rates:
        """Calls/s, if a call were nothing but so many FLOPs."""
        return Rates(self.matmul / flops, None if self.peak is None else self.peak / flops)

    def describe(self) -> dict[str, float | None]:
        """For the details of a row: whoever doubts a share can compute it."""
        return {"matmul_gflop_per_s": self.matmul / 1e9, "peak_gflop_per_s": None if self.peak is None else self.peak / 1e9}


def measure_rates(device: str = "cpu", *, quick: bool = False) -> Rates:
    """FLOP/s of both kinds, the best of ROUNDS: whoever else uses the machine for a moment can only lower them. A smoke run takes one."""
    rounds = [(measure_matmul_rate(device), measure_peak_rate(device)) for _ in range(1 if quick else ROUNDS)]
    peaks = [peak for _, peak in rounds if peak is not None]
    return Rates(max(matmul for matmul, _ in rounds), max(peaks, default=None))


def measure_matmul_rate(device: str = "cpu") -> float:
    """FLOP/s of a large float32 matrix product with the present threads: torch's, or on a CPU numpy's where that is better."""
    if device != "cpu":
        return measure_torch_rate(device, MATRIX_SIZE_CUDA)
    return max(measure_torch_rate(device, MATRIX_SIZE), measure_numpy_rate(torch.get_num_threads()))


def measure_torch_rate(device: str, size: int) -> float:
    """The best of a few."""
    matrix = torch.randn(size, size, device=device)
    # .item() waits for the device
    return 2 * size**3 / min(timeit.repeat(lambda: (matrix @ matrix)[0, 0].item(), number=1, repeat=REPETITIONS))


def measure_numpy_rate(threads: int) -> float:
    """The best of a few, in a process of its own, where the number of threads can be chosen."""
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    command = [sys.executable, "-m", "benchmarks.numpy_product"]
    return float(subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout)
