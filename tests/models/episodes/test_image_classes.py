from __future__ import annotations

import pytest
import torch

from models.episodes import Augmentation, EpisodeShape, ImageClasses
from models.episodes.image_classes import mirror_classes, turn_classes, with_reflections, with_rotations
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


def test_reflections_make_two_classes_of_each() -> None:
    image = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2)
    both = with_reflections(image)
    assert both[:, 0].tolist() == [[[0, 1], [2, 3]], [[1, 0], [3, 2]]]


def grouped_classes(hierarchy: float, groups: tuple[int, ...] = (0, 0, 0, 1, 1, 1, 1, -1, -1, -1)) -> ImageClasses:
    """`numbered_classes` in super-classes: three of group 0, four of group 1, three of none."""
    return ImageClasses(numbered_classes().images, super_classes=torch.tensor(groups), hierarchy=hierarchy)


def drawn_groups(source: ImageClasses, n_way: int, tasks: int = 400) -> list[set[int]]:
    """The super-classes that each episode's classes come from."""
    assert source.super_classes is not None
    batch = source.draw(EpisodeShape(n_way, 1, 1, tasks), torch.Generator().manual_seed(0))
    classes = (batch.support.inputs[..., 0, 0, 0] * 255).round().long() // 10
    return [set(source.super_classes[row].tolist()) for row in classes]


def test_a_hierarchical_episode_has_classes_of_one_super_class_and_all_are_drawn() -> None:
    groups = drawn_groups(grouped_classes(1.0), n_way=3)
    assert all(group in ({0}, {1}) for group in groups)
    share = sum(group == {0} for group in groups) / len(groups)
    assert 0.4 < share < 0.6  # each as likely as another, whatever its size


def test_a_share_of_the_episodes_is_hierarchical() -> None:
    mixed = sum(len(group) > 1 for group in drawn_groups(grouped_classes(0.5), n_way=3)) / 400
    by_chance = sum(len(group) > 1 for group in drawn_groups(grouped_classes(1e-9), n_way=3)) / 400
    assert by_chance > 0.9
    assert mixed == pytest.approx(0.5 * by_chance, abs=0.08)


def test_super_classes_with_too_few_classes_are_left_out() -> None:
    assert all(group == {1} for group in drawn_groups(grouped_classes(1.0), n_way=4))


def test_when_no_super_class_is_large_enough_it_is_said() -> None:
    with pytest.raises(InvalidOptions, match="no super-class has 5 classes to draw, the largest has 4; lower n_way or hierarchy"):
        drawn_groups(grouped_classes(0.1), n_way=5)


@pytest.mark.parametrize(("hierarchy", "complaint"), [(1.5, r"in \[0, 1\]"), (-0.1, r"in \[0, 1\]"), (0.5, "no super-classes")])
def test_a_hierarchy_that_cannot_be_is_refused(hierarchy: float, complaint: str) -> None:
    with pytest.raises(InvalidOptions, match=complaint):
        ImageClasses(numbered_classes().images, hierarchy=hierarchy)


def test_turned_and_mirrored_super_classes_are_super_classes_of_their_own() -> None:
    source = mirror_classes(turn_classes(grouped_classes(1.0)))
    assert source.images.shape[0] == 80
    groups = source.super_classes
    assert groups is not None
    assert sorted(set(groups.tolist())) == [-1, *range(16)]
    assert [int((groups == group).sum()) for group in range(16)] == [3, 4] * 8
    assert groups[:10].tolist() == [0, 0, 0, 1, 1, 1, 1, -1, -1, -1]
    assert (groups[10:17] - groups[:7]).tolist() == [2] * 7  # the first turn of the same classes


def ragged_classes() -> ImageClasses:
    """Class c has c + 1 examples; padding is 255, which no real image is."""
    source, counts = numbered_classes(), torch.arange(10).clamp(max=5) + 1
    images = source.images.clone()
    images[torch.arange(6) >= counts[:, None]] = 255
    return ImageClasses(images, counts=counts)


def test_padding_is_never_drawn_and_classes_with_too_few_examples_neither() -> None:
    batch = ragged_classes().draw(EpisodeShape(n_way=4, k_shot=2, n_query=2, tasks=200), torch.Generator().manual_seed(0))
    drawn = (torch.cat([batch.support.inputs, batch.query_inputs], 1)[..., 0, 0, 0] * 255).round().long()
    assert set((drawn // 10).flatten().tolist()) == {3, 4, 5, 6, 7, 8, 9}
    assert (drawn % 10 <= drawn // 10).all()
    assert all(len(set(row.tolist())) == 16 for row in drawn)


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        (EpisodeShape(8, 2, 2, 1), r"n_way must be in \[2, 7\], the classes there are with 4 examples"),
        (EpisodeShape(2, 5, 2, 1), "at most 6 together"),
    ],
)
def test_more_than_ragged_classes_have_is_refused(shape: EpisodeShape, complaint: str) -> None:
    with pytest.raises(InvalidOptions, match=complaint):
        ragged_classes().draw(shape, torch.Generator().manual_seed(0))


def test_turning_keeps_the_number_of_examples_of_a_class() -> None:
    turned = turn_classes(ragged_classes())
    assert turned.counts is not None
    assert turned.counts.tolist() == [1, 2, 3, 4, 5, 6, 6, 6, 6, 6] * 4


def test_colours_keep_their_channels_and_move_together() -> None:
    images = torch.full((3, 4, 3, 8, 8), 255, dtype=torch.uint8)
    images[:, :, :, 3:5, 3:5] = torch.tensor([200, 100, 0], dtype=torch.uint8).view(3, 1, 1)
    source = ImageClasses(images, Augmentation(shift=2, rotation=15, scale=0.1))
    assert source.input_shape == (3, 8, 8)
    batch = source.draw(EpisodeShape(2, 1, 2, 5), torch.Generator().manual_seed(0))
    assert batch.support.inputs.shape == (5, 2, 3, 8, 8)
    assert batch.query_inputs.shape == (5, 4, 3, 8, 8)
    darkness = 1 - batch.support.inputs  # of a colour that is darker by the same factor everywhere
    torch.testing.assert_close(darkness[:, :, 0] / 55, darkness[:, :, 2] / 255, atol=1e-5, rtol=0)
    assert batch.support.inputs[..., 0, 0].eq(1).all()  # outside goes on as at the border, not dark
    assert batch.support.inputs[:, :, 2].min() < 0.7
