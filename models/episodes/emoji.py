"""Emoji: 1,052 signs in 8 or 9 styles each, 32x32 in colour on white: small natural-looking images in named groups.

`emoji_styles32.npz`: images (n_classes, 9, 32, 32, 3) uint8, mask (n_classes, 9) bool, group (n_classes,), group_names,
class_split (n_classes,) with 0 for train, 1 for validation and 2 for test.
"""

from __future__ import annotations

import torch

from models.episodes.array_file import read_arrays, stack_ragged
from models.episodes.augment import Augmentation
from models.episodes.episode import Split
from models.episodes.image_classes import NO_SUPER_CLASS, ImageClasses
from models.episodes.omniglot import SPLITS

FILE = "emoji_styles32.npz"
REMAINDER = "Other"
"""The group of what no group wanted: no super-class."""


def open_emoji(split: Split, augmentation: Augmentation | None = None, hierarchy: float = 0.0) -> ImageClasses:
    """Episodes from the classes of one split, (3, 32, 32); the super-classes are the named groups. Raises DataUnavailable."""
    arrays = read_arrays(FILE, ("images", "mask", "group", "group_names", "class_split"))
    chosen = arrays["class_split"] == SPLITS[split]
    mask, group = arrays["mask"][chosen], arrays["group"][chosen].astype("int64")
    group[arrays["group_names"][group] == REMAINDER] = NO_SUPER_CLASS
    images, counts = stack_ragged(arrays["images"][chosen][mask], mask.nonzero()[0], int(chosen.sum()))
    channels_first = images.permute(0, 1, 4, 2, 3).contiguous()
    return ImageClasses(channels_first, augmentation, counts=counts, super_classes=torch.from_numpy(group), hierarchy=hierarchy)
