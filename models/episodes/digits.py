"""Handwritten digits to judge by, never to train on: who learned characters has not seen them.

scikit-learn's (UCI Optical Recognition of Handwritten Digits, 1,797 of 8x8 with values of 0 to 16), enlarged to 28x28 with a margin
that makes them as large as Omniglot's characters. `app/demo.py` shows the same pictures; it may not import torch, so it has its own lines.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from models.episodes.array_file import stack_ragged
from models.episodes.episode import Split
from models.episodes.image_classes import ImageClasses
from models.errors import InvalidOptions

MARGIN, SIDE, DARKEST = 2, 28, 16


def open_digits(split: Split) -> ImageClasses:
    """Episodes from the ten digits, 174 to 183 examples each; all ten are test classes. Raises InvalidOptions for another split."""
    if split != "test":
        raise InvalidOptions(f"digits are for evaluation only: all ten are test classes, there is no {split} split")
    from sklearn.datasets import load_digits  # a second that no other source need wait

    found = load_digits()
    grey = np.rint(found.images * (255 / DARKEST)).astype(np.uint8)
    framed = np.pad(grey, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    pictures = np.stack([np.asarray(Image.fromarray(digit).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for digit in framed])
    images, counts = stack_ragged(pictures, found.target, 10)
    return ImageClasses(images, counts=counts)
