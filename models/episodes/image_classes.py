"""Episodes from classes of images that fit in memory: one uint8 tensor, every draw one gather."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.episodes.augment import Augmentation, augment_images
from models.episodes.episode import EpisodeBatch, EpisodeShape
from models.errors import InvalidOptions
from models.learner import Kind
from models.support import Support

NO_SUPER_CLASS = -1


@dataclass(frozen=True)
class ImageClasses:
    """images (n_classes, n_examples, [channels,] height, width) uint8: grey ones, ink bright, or (3, height, width) colours.

    Episodes hold floats in [0, 1], (1, height, width) for grey ones. `counts` (n_classes,) says how many of a class's images are real,
    the first ones; None is all. `super_classes` (n_classes,) int64 names the super-class of each class, -1 for none; `hierarchy` is the
    share of episodes whose classes all come from one of them.
    """

    images: Tensor
    augmentation: Augmentation | None = None
    kind: Kind = "classification"
    counts: Tensor | None = None
    super_classes: Tensor | None = None
    hierarchy: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.hierarchy <= 1:
            raise InvalidOptions(f"hierarchy must be in [0, 1], got {self.hierarchy}")
        if self.hierarchy and self.super_classes is None:
            raise InvalidOptions("hierarchy must be 0: these classes have no super-classes")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (1, *self.images.shape[2:]) if self.images.dim() == 4 else tuple(self.images.shape[2:])

    def draw(self, shape: EpisodeShape, generator: torch.Generator) -> EpisodeBatch:
        """Distinct classes in an episode, distinct examples in a class; only classes with k_shot + n_query examples are drawn.

        16 episodes of 5-way 1-shot take about 1 ms.
        """
        drawable = self._find_drawable(shape)
        tasks, n_way, n_examples = shape.tasks, shape.n_way, shape.k_shot + shape.n_query
        among = drawable if drawable is None or not self.hierarchy else self._narrow(drawable, shape, generator)
        classes = _draw_distinct(tasks, self.images.shape[0], n_way, generator, among)  # (tasks, n_way)
        examples = _draw_distinct(tasks * n_way, self.images.shape[1], n_examples, generator, self._find_real(classes))
        examples = examples.view(tasks, n_way, -1)  # (tasks, n_way, k_shot + n_query)
        chosen = self.images[classes.unsqueeze(-1), examples].float().div_(255)
        chosen = chosen.view(*examples.shape, *self.input_shape)
        if self.augmentation:
            chosen = augment_images(chosen.flatten(0, 2), self.augmentation, generator).view(chosen.shape)
        return _split_examples(chosen, shape.k_shot)

    def _find_drawable(self, shape: EpisodeShape) -> Tensor | None:
        """(1, n_classes) bool: classes with examples enough; None when all have, and no super-class is asked for."""
        n_classes, most = self.images.shape[:2]
        counts = torch.full((n_classes,), most) if self.counts is None else self.counts
        wanted = shape.k_shot + shape.n_query
        if shape.k_shot < 1 or shape.n_query < 1 or wanted > int(counts.max()):
            limit = f"at least 1 each and at most {int(counts.max())} together, the examples of a class"
            raise InvalidOptions(f"k_shot and n_query must be {limit}; got {shape.k_shot} and {shape.n_query}")
        drawable = counts >= wanted
        if not 2 <= shape.n_way <= int(drawable.sum()):
            limit = f"[2, {int(drawable.sum())}], the classes there are with {wanted} examples"
            raise InvalidOptions(f"n_way must be in {limit}; got {shape.n_way}")
        return drawable.unsqueeze(0) if self.hierarchy or not drawable.all() else None

    def _narrow(self, drawable: Tensor, shape: EpisodeShape, generator: torch.Generator) -> Tensor:
        """(tasks, n_classes) bool: the drawable classes of one super-class for the share `hierarchy` of the tasks, all for the others.

        Super-classes first, each as likely as another (Triantafillou et al. 2020, arXiv:1903.03096, section 3.2), among those that have
        enough classes.
        """
        members = _list_members(self.super_classes) & drawable  # (n_super_classes, n_classes)
        enough = members[members.sum(1) >= shape.n_way]
        if not len(enough):
            most = int(members.sum(1).max()) if len(members) else 0
            raise InvalidOptions(f"no super-class has {shape.n_way} classes to draw, the largest has {most}; lower n_way or hierarchy")
        chosen = enough[torch.randint(len(enough), (shape.tasks,), generator=generator)]
        is_narrow = torch.rand(shape.tasks, 1, generator=generator) < self.hierarchy
        return torch.where(is_narrow, chosen, drawable)

    def _find_real(self, classes: Tensor) -> Tensor | None:
        """(tasks * n_way, n_examples) bool: which images of each drawn class are real; None when all are."""
        if self.counts is None:
            return None
        return torch.arange(self.images.shape[1]) < self.counts[classes].view(-1, 1)


def turn_classes(source: ImageClasses) -> ImageClasses:
    """Four times the classes: `with_rotations`, and of each super-class too. A turned alphabet is an alphabet of its own: in one with all
    four turns, a letter that looks the same upside down would be its own rival."""
    return _multiply_classes(source, with_rotations, 4)


def mirror_classes(source: ImageClasses) -> ImageClasses:
    """Twice the classes: `with_reflections`, and of each super-class too."""
    return _multiply_classes(source, with_reflections, 2)


def with_rotations(images: Tensor) -> Tensor:
    """(4 * n_classes, ...): each class, and the same turned by 90, 180 and 270 degrees as classes of their own."""
    return torch.cat([torch.rot90(images, turns, (-2, -1)) for turns in range(4)])


def with_reflections(images: Tensor) -> Tensor:
    """(2 * n_classes, ...): each class, and the same in a mirror as a class of its own."""
    return torch.cat([images, images.flip(-1)])


def _multiply_classes(source: ImageClasses, change: Callable[[Tensor], Tensor], times: int) -> ImageClasses:
    counts, super_classes = source.counts, source.super_classes
    if super_classes is not None:
        step = int(super_classes.max()) + 1
        super_classes = torch.cat([super_classes.where(super_classes < 0, super_classes + turn * step) for turn in range(times)])
    return replace(
        source, images=change(source.images), counts=None if counts is None else counts.repeat(times), super_classes=super_classes
    )


def _list_members(super_classes: Tensor | None) -> Tensor:
    """(n_super_classes, n_classes) bool."""
    if super_classes is None:
        raise RuntimeError("super-classes were asked for where there are none. This is a bug.")
    names = sorted(set(super_classes.tolist()) - {NO_SUPER_CLASS})
    return torch.tensor(names).view(-1, 1) == super_classes


def _draw_distinct(rows: int, n: int, k: int, generator: torch.Generator, among: Tensor | None = None) -> Tensor:
    """`k` distinct numbers in [0, n) for each row, (rows, k) int64: the places of the largest of n random numbers.

    `among` (rows or 1, n) bool says which may be drawn, at least k in a row.
    """
    scores = torch.rand(rows, n, generator=generator)
    return (scores if among is None else scores.masked_fill(~among, -1.0)).topk(k, dim=1).indices


def _split_examples(chosen: Tensor, k_shot: int) -> EpisodeBatch:
    """chosen (tasks, n_way, k_shot + n_query, *input_shape) as support sets and queries, class by class."""
    tasks, n_way, n_examples = chosen.shape[:3]
    labels = torch.arange(n_way).view(1, n_way, 1).expand(tasks, n_way, n_examples)
    targets = labels[:, :, :k_shot].reshape(tasks, -1)
    support = Support(
        inputs=chosen[:, :, :k_shot].flatten(1, 2),
        targets=targets,
        mask=torch.ones_like(targets, dtype=torch.bool),
        class_mask=torch.ones(tasks, n_way, dtype=torch.bool),
    )
    return EpisodeBatch(support, chosen[:, :, k_shot:].flatten(1, 2), labels[:, :, k_shot:].reshape(tasks, -1))
