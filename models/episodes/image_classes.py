"""Episodes from classes of grey images that fit in memory: one uint8 tensor, every draw one gather."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.episodes.augment import Augmentation, augment_images
from models.episodes.episode import EpisodeBatch, EpisodeShape
from models.errors import InvalidOptions
from models.learner import Kind
from models.support import Support


@dataclass(frozen=True)
class ImageClasses:
    """images (n_classes, n_examples, height, width) uint8, ink bright. Episodes hold (1, height, width) floats in [0, 1]."""

    images: Tensor
    augmentation: Augmentation | None = None
    kind: Kind = "classification"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (1, *self.images.shape[2:])

    def draw(self, shape: EpisodeShape, generator: torch.Generator) -> EpisodeBatch:
        """Distinct classes in an episode, distinct examples in a class. 16 episodes of 5-way 1-shot take about 1 ms."""
        self._check(shape)
        tasks, n_way, k_shot = shape.tasks, shape.n_way, shape.k_shot
        classes = _draw_distinct(tasks, self.images.shape[0], n_way, generator)  # (tasks, n_way)
        examples = _draw_distinct(tasks * n_way, self.images.shape[1], k_shot + shape.n_query, generator)
        examples = examples.view(tasks, n_way, -1)  # (tasks, n_way, k_shot + n_query)
        chosen = self.images[classes.unsqueeze(-1), examples].float().div_(255)
        if self.augmentation:
            chosen = augment_images(chosen.flatten(0, 2), self.augmentation, generator).view(chosen.shape)
        return _split_examples(chosen, k_shot)

    def _check(self, shape: EpisodeShape) -> None:
        n_classes, n_examples = self.images.shape[:2]
        if not 2 <= shape.n_way <= n_classes:
            raise InvalidOptions(f"n_way must be in [2, {n_classes}], the classes there are; got {shape.n_way}")
        if shape.k_shot < 1 or shape.n_query < 1 or shape.k_shot + shape.n_query > n_examples:
            limit = f"at least 1 each and at most {n_examples} together, the examples of a class"
            raise InvalidOptions(f"k_shot and n_query must be {limit}; got {shape.k_shot} and {shape.n_query}")


def with_rotations(images: Tensor) -> Tensor:
    """(4 * n_classes, ...): each class, and the same turned by 90, 180 and 270 degrees as classes of their own."""
    return torch.cat([torch.rot90(images, turns, (-2, -1)) for turns in range(4)])


def _draw_distinct(rows: int, n: int, k: int, generator: torch.Generator) -> Tensor:
    """`k` distinct numbers in [0, n) for each row, (rows, k) int64: the places of the largest of n random numbers."""
    return torch.rand(rows, n, generator=generator).topk(k, dim=1).indices


def _split_examples(chosen: Tensor, k_shot: int) -> EpisodeBatch:
    """chosen (tasks, n_way, k_shot + n_query, height, width) as support sets and queries, class by class."""
    tasks, n_way, n_examples, height, width = chosen.shape
    labels = torch.arange(n_way).view(1, n_way, 1).expand(tasks, n_way, n_examples)
    targets = labels[:, :, :k_shot].reshape(tasks, -1)
    support = Support(
        inputs=chosen[:, :, :k_shot].reshape(tasks, n_way * k_shot, 1, height, width),
        targets=targets,
        mask=torch.ones_like(targets, dtype=torch.bool),
        class_mask=torch.ones(tasks, n_way, dtype=torch.bool),
    )
    queries = chosen[:, :, k_shot:].reshape(tasks, -1, 1, height, width)
    return EpisodeBatch(support, queries, labels[:, :, k_shot:].reshape(tasks, -1))
