"""Data sets that are one .npz file in the data folder, and that no public archive holds in that form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.episodes.location import VARIABLE, find_data_folder
from models.errors import DataUnavailable


def read_arrays(file: str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named arrays of a file in the data folder. Raises DataUnavailable saying which file is expected where."""
    path = find_data_folder() / file
    if not path.exists():
        raise DataUnavailable(f"{path} is expected, and there is no public archive to make it from: set {VARIABLE} to a folder that has it")
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, ValueError, KeyError) as fault:
        raise DataUnavailable(f"{path} must be an .npz file that holds {', '.join(names)} ({fault})") from fault


def stack_ragged(images: NDArray[np.uint8], labels: NDArray[Any], n_classes: int) -> tuple[Tensor, Tensor]:
    """Images (n, ...) by their labels (n,) as (n_classes, most, ...), padded with zeros, and how many are real, (n_classes,)."""
    counts = np.bincount(labels, minlength=n_classes)
    order = np.argsort(labels, kind="stable")
    places = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, ... within each class
    stacked = np.zeros((n_classes, counts.max(), *images.shape[1:]), np.uint8)
    stacked[labels[order], places] = images[order]
    return torch.from_numpy(stacked), torch.from_numpy(counts)
