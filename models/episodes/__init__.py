"""Data sets and episode samplers. `open_episodes` gives the source that a recipe names."""

from __future__ import annotations

from models.episodes.augment import Augmentation
from models.episodes.digits import open_digits
from models.episodes.emoji import open_emoji
from models.episodes.episode import EpisodeBatch, EpisodeShape, EpisodeSource, Split, stack_episodes
from models.episodes.icons import open_icons
from models.episodes.image_classes import ImageClasses
from models.episodes.omniglot import open_omniglot
from models.episodes.sinusoid import Sinusoid
from models.errors import DataUnavailable, InvalidOptions

__all__ = [
    "SOURCES",
    "Augmentation",
    "EpisodeBatch",
    "EpisodeShape",
    "EpisodeSource",
    "ImageClasses",
    "Sinusoid",
    "Split",
    "are_turned",
    "open_episodes",
    "stack_episodes",
]

SOURCES = ("digits", "emoji", "icons", "omniglot", "sinusoid")
TURNED_SOURCES = ("omniglot",)
"""Sources whose classes may be turned and mirrored into more classes. An arrow to the left is one to the right already, a 6 is a 9."""


def are_turned(source: str, rotations: bool = True) -> bool:
    """Whether episodes that are opened with `rotations` hold turned classes."""
    return rotations and source in TURNED_SOURCES


def open_episodes(
    source: str,
    split: Split,
    *,
    rotations: bool = True,
    reflections: bool = False,
    augmentation: Augmentation | None = None,
    hierarchy: float = 0.0,
) -> EpisodeSource:
    """Episodes of one split of a source. `rotations` holds where classes can be turned, see `are_turned`.

    Raises DataUnavailable, or InvalidOptions for a split or an option that the source does not have.
    """
    _check_options(source, reflections=reflections, augmentation=augmentation, hierarchy=hierarchy)
    if source == "omniglot":
        return open_omniglot(split, rotations=rotations, reflections=reflections, augmentation=augmentation, hierarchy=hierarchy)
    if source == "icons":
        return open_icons(split, augmentation)
    if source == "emoji":
        return open_emoji(split, augmentation, hierarchy)
    if source == "digits":
        return open_digits(split)
    return Sinusoid()


def _check_options(source: str, *, reflections: bool, augmentation: Augmentation | None, hierarchy: float) -> None:
    if source not in SOURCES:
        raise DataUnavailable(f"there is no source {source!r}; the sources are {list(SOURCES)}")
    if reflections and source not in TURNED_SOURCES:
        raise InvalidOptions(f"data.reflections must be false: {source} has no classes that mirroring would make new ones of")
    if hierarchy and source not in ("emoji", "omniglot"):
        raise InvalidOptions(f"data.hierarchy must be 0: {source} has no super-classes")
    if augmentation and source in ("digits", "sinusoid"):
        raise InvalidOptions(f"data.augment must be left out: {source} has no images to train on")
