"""The FLOP/s of numpy's large float32 matrix product, as the only line it prints.

Meant for a process of its own: numpy's library takes its number of threads from the environment, when it is loaded and never again.
"""

from __future__ import annotations

import timeit

import numpy as np

MATRIX_SIZE, REPETITIONS = 1024, 8


def measure_rate() -> float:
    """The best of a few."""
    matrix = np.random.default_rng(0).standard_normal((MATRIX_SIZE, MATRIX_SIZE), dtype=np.float32)
    return 2 * MATRIX_SIZE**3 / min(timeit.repeat(lambda: matrix @ matrix, number=1, repeat=REPETITIONS))


if __name__ == "__main__":
    print(measure_rate())
