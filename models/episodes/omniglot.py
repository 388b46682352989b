"""Omniglot (Lake et al. 2015): 1,623 handwritten characters of 50 alphabets, 20 drawers each, in the Vinyals split.

Read from `omniglot.npz` in the data folder; when it is not there, made from the public archives.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.episodes.augment import Augmentation
from models.episodes.episode import Split
from models.episodes.image_classes import ImageClasses, with_rotations
from models.episodes.location import VARIABLE, find_data_folder
from models.episodes.omniglot_archive import build_omniglot
from models.errors import DataUnavailable

FILE = "omniglot.npz"
SPLITS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}


def open_omniglot(split: Split, *, rotations: bool = True, augmentation: Augmentation | None = None) -> ImageClasses:
    """Episodes from the classes of one split. With `rotations` each class turned by 90 degrees is another class.

    Downloads 15 MB on first use. Raises DataUnavailable.
    """
    images = load_omniglot(find_data_folder(), split)
    return ImageClasses(with_rotations(images) if rotations else images, augmentation)


def load_omniglot(folder: Path, split: Split) -> Tensor:
    """(n_classes, 20, 28, 28) uint8, ink 255, of one split; the file is made when it is not in `folder`."""
    path = folder / FILE
    if not path.exists():
        build_omniglot(path)
    try:
        with np.load(path) as arrays:
            images, splits = arrays["images"], arrays["vinyals_split"]
    except (OSError, ValueError, KeyError) as fault:
        raise DataUnavailable(f"{path} is not the Omniglot file it should be ({fault}); delete it, or set {VARIABLE}") from fault
    return torch.from_numpy(np.ascontiguousarray(images[splits == SPLITS[split]]))
