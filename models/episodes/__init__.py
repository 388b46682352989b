"""Data sets and episode samplers. `open_episodes` gives the source that a recipe names."""

from __future__ import annotations

from models.episodes.augment import Augmentation
from models.episodes.episode import EpisodeBatch, EpisodeShape, EpisodeSource, Split, stack_episodes
from models.episodes.image_classes import ImageClasses
from models.episodes.omniglot import open_omniglot
from models.episodes.sinusoid import Sinusoid
from models.errors import DataUnavailable

__all__ = [
    "SOURCES",
    "Augmentation",
    "EpisodeBatch",
    "EpisodeShape",
    "EpisodeSource",
    "ImageClasses",
    "Sinusoid",
    "Split",
    "open_episodes",
    "stack_episodes",
]

SOURCES = ("omniglot", "sinusoid")


def open_episodes(source: str, split: Split, *, rotations: bool = True, augmentation: Augmentation | None = None) -> EpisodeSource:
    """Episodes of one split of a source. Raises DataUnavailable."""
    if source == "omniglot":
        return open_omniglot(split, rotations=rotations, augmentation=augmentation)
    if source == "sinusoid":
        return Sinusoid()
    raise DataUnavailable(f"there is no source {source!r}; the sources are {list(SOURCES)}")
