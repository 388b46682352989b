"""Omniglot (Lake et al. 2015): 1,623 handwritten characters of 50 alphabets, 20 drawers each, in the Vinyals split.

Read from `omniglot.npz` in the data folder; when it is not there, made from the public archives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.episodes.augment import Augmentation
from models.episodes.episode import Split
from models.episodes.image_classes import ImageClasses, mirror_classes, turn_classes
from models.episodes.location import VARIABLE, find_data_folder
from models.episodes.omniglot_archive import build_omniglot
from models.errors import DataUnavailable

FILE = "omniglot.npz"
SPLITS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}


def open_omniglot(
    split: Split,
    *,
    rotations: bool = True,
    reflections: bool = False,
    augmentation: Augmentation | None = None,
    hierarchy: float = 0.0,
) -> ImageClasses:
    """Episodes from the classes of one split. With `rotations` each class turned by 90 degrees is another class,
    with `reflections` each class in a mirror is; the super-classes are the alphabets, turned and mirrored ones of their own.

    Downloads 15 MB on first use. Raises DataUnavailable.
    """
    folder = find_data_folder()
    images = load_omniglot(folder, split)
    source = ImageClasses(images, augmentation, super_classes=load_alphabets(folder, split) if hierarchy else None, hierarchy=hierarchy)
    source = turn_classes(source) if rotations else source
    return mirror_classes(source) if reflections else source


def load_omniglot(folder: Path, split: Split) -> Tensor:
    """(n_classes, 20, 28, 28) uint8, ink 255, of one split; the file is made when it is not in `folder`."""
    if not (folder / FILE).exists():
        build_omniglot(folder / FILE)
    return torch.from_numpy(np.ascontiguousarray(_read(folder / FILE, "images", split)))


def load_alphabets(folder: Path, split: Split) -> Tensor:
    """(n_classes,) int64: the number of each character's alphabet, in the order of `load_omniglot`."""
    return torch.from_numpy(_read(folder / FILE, "alphabet", split).astype(np.int64))


def _read(path: Path, name: str, split: Split) -> NDArray[Any]:
    try:
        with np.load(path) as arrays:
            part: NDArray[Any] = arrays[name][arrays["vinyals_split"] == SPLITS[split]]
            return part
    except (OSError, ValueError, KeyError) as fault:
        raise DataUnavailable(f"{path} is not the Omniglot file it should be ({fault}); delete it, or set {VARIABLE}") from fault
