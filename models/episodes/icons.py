"""Icons: 296 signs of user interfaces, each drawn by 20 to 73 designers; 28x28, ink bright, like Omniglot's characters.

`icons28.npz`: images (n, 28, 28) uint8, labels (n,), class_split (n_classes,) with 0 for train, 1 for validation and 2 for test.
"""

from __future__ import annotations

from models.episodes.array_file import read_arrays, stack_ragged
from models.episodes.augment import Augmentation
from models.episodes.episode import Split
from models.episodes.image_classes import ImageClasses
from models.episodes.omniglot import SPLITS

FILE = "icons28.npz"


def open_icons(split: Split, augmentation: Augmentation | None = None) -> ImageClasses:
    """Episodes from the classes of one split; classes have different numbers of examples. Raises DataUnavailable."""
    arrays = read_arrays(FILE, ("images", "labels", "class_split"))
    images, counts = stack_ragged(arrays["images"], arrays["labels"], len(arrays["class_split"]))
    chosen = (arrays["class_split"] == SPLITS[split]).nonzero()[0]
    return ImageClasses(images[chosen], augmentation, counts=counts[chosen])
