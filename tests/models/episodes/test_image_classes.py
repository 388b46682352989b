from __future__ import annotations

import pytest
import torch

from models.episodes import Augmentation, EpisodeShape, ImageClasses
from models.episodes.image_classes import with_rotations
from models.errors import InvalidOptions


def numbered_classes(n_classes: int = 10, n_examples: int = 6) -> ImageClasses:
    """Every pixel of an image tells its class and example: 10 * class + example."""
    numbers = torch.arange(n_classes).view(-1, 1) * 10 + torch.arange(n_examples)
    return ImageClasses(numbers.to(torch.uint8).view(n_classes, n_examples, 1, 1).expand(-1, -1, 4, 4))


def draw(shape: EpisodeShape, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Support and query numbers (lanes, n), and their labels."""
    batch = numbered_classes().draw(shape, torch.Generator().manual_seed(seed))
    numbers = [(images[..., 0, 0, 0] * 255).round().long() for images in (batch.support.inputs, batch.query_inputs)]
    return numbers[0], batch.support.targets, numbers[1], batch.query_targets


def test_queries_and_support_of_a_label_are_of_one_class_and_never_the_same_image() -> None:
    support, labels, query, query_labels = draw(EpisodeShape(n_way=4, k_shot=2, n_query=3, tasks=50))
    for lane in range(50):
        class_of = dict(zip(labels[lane].tolist(), (support[lane] // 10).tolist(), strict=True))
        assert len(set(class_of.values())) == 4
        assert (query[lane] // 10).tolist() == [class_of[label] for label in query_labels[lane].tolist()]
        assert len({*support[lane].tolist(), *query[lane].tolist()}) == 4 * 5


def test_a_draw_has_the_shapes_it_promises() -> None:
    batch = numbered_classes().draw(EpisodeShape(n_way=4, k_shot=2, n_query=3, tasks=5), torch.Generator().manual_seed(0))
    assert batch.support.inputs.shape == (5, 8, 1, 4, 4)
    assert batch.query_inputs.shape == (5, 12, 1, 4, 4)
    assert batch.query_targets.shape == (5, 12)
    assert batch.support.mask.all()
    assert batch.support.class_mask.shape == (5, 4)
    assert batch.support.inputs.dtype == torch.float32


def test_every_class_and_example_is_drawn() -> None:
    support, *_ = draw(EpisodeShape(n_way=5, k_shot=1, n_query=1, tasks=400))
    assert len(set(support.flatten().tolist())) == 60


def test_the_same_seed_draws_the_same_episodes_and_another_seed_others() -> None:
    shape = EpisodeShape(n_way=4, k_shot=1, n_query=1, tasks=8)
    assert torch.equal(draw(shape, seed=1)[0], draw(shape, seed=1)[0])
    assert not torch.equal(draw(shape, seed=1)[0], draw(shape, seed=2)[0])


@pytest.mark.parametrize("shape", [EpisodeShape(11, 1, 1, 1), EpisodeShape(1, 1, 1, 1), EpisodeShape(2, 5, 2, 1), EpisodeShape(2, 0, 2, 1)])
def test_more_than_there_is_cannot_be_asked_for(shape: EpisodeShape) -> None:
    with pytest.raises(InvalidOptions, match="must be"):
        draw(shape)


def test_rotations_make_four_classes_of_each() -> None:
    image = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).view(1, 1, 2, 2)
    turned = with_rotations(image)
    assert turned.shape == (4, 1, 2, 2)
    assert turned[:, 0].tolist() == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]


def test_augmentation_moves_each_image_in_its_own_way_and_keeps_it_an_image() -> None:
    images = torch.zeros(2, 6, 28, 28, dtype=torch.uint8)
    images[:, :, 10:18, 12:16] = 255
    source = ImageClasses(images, Augmentation(shift=2, rotation=15, scale=0.1))
    batch = source.draw(EpisodeShape(2, 2, 4, 1), torch.Generator().manual_seed(0))
    seen = torch.cat([batch.support.inputs, batch.query_inputs], 1)[0]
    assert len({tuple(image.flatten().tolist()) for image in seen}) == 12
    assert seen.min() >= 0
    assert seen.max() <= 1
    assert (seen.sum((1, 2, 3)) - 32).abs().max() < 12  # scaled by at most 10 % a side


def test_no_augmentation_is_the_identity() -> None:
    images = torch.randint(0, 256, (2, 2, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shape = EpisodeShape(2, 1, 1, 1)
    plain = ImageClasses(images).draw(shape, torch.Generator().manual_seed(0))
    still = ImageClasses(images, Augmentation(0, 0, 0)).draw(shape, torch.Generator().manual_seed(0))
    torch.testing.assert_close(plain.support.inputs, still.support.inputs, atol=1e-4, rtol=0)
