"""How many bits a number of a state's kernels gets: the fewer, the less the inner loop moved them.

What rounding does to a convolution is, beside what it computes, the size of the errors beside that of the weights. Errors of a channel are
spread evenly over one step of its scale, so their size is known from the largest difference of each channel, before anything is packed:

    error**2 = sum over weights and channels of  lines * (largest / 127)**2 / 12 / |base|**2        (for eight bits)

On Omniglot's test characters logits moved by 4 to 27 times that error; only where tens of steps had driven them past 50 by up to 100 times.
What `MOST_ERROR` lets through moved them by 5e-4 at most, of which 2e-4 are the heads' 20 bits (`python -m benchmarks.kernel_rounding`,
2026-11-22).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from models.packed_weights import BITS

Array = npt.NDArray[Any]

MOST_ERROR = 3e-5
"""Of eight bits, relative to the meta-parameters."""

FEW, MANY = BITS


def weigh_channels(bases: Sequence[Tensor]) -> Array:
    """How much the square of each channel's largest difference counts, channels of all weights one after the other: float64."""
    steps = 2.0 ** (FEW - 1) - 1
    # Summed exactly: every process that reads the same weights must come to the same.
    sizes = [fsum(base.double().square().flatten().tolist()) for base in bases]
    each = [np.full(base.shape[1], len(base) / (12 * steps**2 * max(size, 1e-300))) for base, size in zip(bases, sizes, strict=True)]
    return np.concatenate([np.empty(0), *each])


def foresee_errors(largest: Array, weighed: Array) -> Array:
    """What eight bits would do to states whose channels differ by `largest` (states, channels) at most: (states,) float64.

    The same for the same numbers in any company. Not finite where those are not.
    """
    return np.asarray(np.sqrt((np.square(largest, dtype=np.float64) * weighed).sum(axis=1)))


def choose_bits(errors: Array) -> list[int]:
    """The bits of states for which such errors are foreseen; what is not finite gets more."""
    return [FEW if error <= MOST_ERROR else MANY for error in errors.tolist()]
