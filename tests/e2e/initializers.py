"""A tiny prototype initializer whose numbers are a function of a seed, and drawings for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.card import Limits
from tests.app.api.conftest import INK, make_card, write_initializer

NAME = "tiny"


def write_tiny_initializer(folder: Path, *, seed: int) -> None:
    """The folder of `tiny` with the weights of `seed`, replaced in one step."""
    write_initializer(folder, make_card(NAME, INK, Limits(20, 100, 2, 0), default_steps=0), seed)


def drawings(n: int, seed: int) -> npt.NDArray[Any]:
    """n random drawings (n, 1, 8, 8) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (n, 1, 8, 8)).astype(np.uint8)
