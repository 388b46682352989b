"""The sources beside Omniglot and the sinusoid: from small files in their layouts, and from the real ones where they are."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from app import demo
from models.episodes import EpisodeShape, ImageClasses, Split, are_turned, open_episodes
from models.episodes.array_file import stack_ragged
from models.episodes.location import find_data_folder
from models.errors import DataUnavailable, InvalidOptions
from tests.models.small_data import write_small_emoji, write_small_icons, write_small_omniglot

SHAPE = EpisodeShape(n_way=3, k_shot=1, n_query=2, tasks=4)
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@pytest.fixture
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INNERLOOP_DATA_DIR", str(tmp_path))
    return tmp_path


def open_images(source: str, split: Split, **options: float) -> ImageClasses:
    found = open_episodes(source, split, **options)  # type: ignore[arg-type]
    assert isinstance(found, ImageClasses)
    return found


def values_of(source: ImageClasses) -> list[set[int]]:
    """The brightest values of the real images of each class: the small files write the class's number there."""
    assert source.counts is not None
    return [set(images[:count].flatten(1).amax(1).tolist()) for images, count in zip(source.images, source.counts.tolist(), strict=True)]


def test_icons_are_the_classes_of_their_split_with_all_their_examples(small_data: Path) -> None:
    counts = write_small_icons(small_data)
    parts = [open_images("icons", split) for split in SPLITS]
    assert [values_of(part) for part in parts] == [[{1}, {4}, {7}, {10}], [{2}, {5}, {8}], [{3}, {6}, {9}]]
    for index, part in enumerate(parts):
        assert part.counts is not None
        assert part.counts.tolist() == counts[index::3]
        assert part.draw(SHAPE, torch.Generator().manual_seed(0)).support.inputs.shape == (4, 3, 1, 28, 28)


def test_emoji_leave_out_the_styles_that_are_missing(small_data: Path) -> None:
    write_small_emoji(small_data)
    train = open_images("emoji", "train")
    assert train.input_shape == (3, 32, 32)
    assert values_of(train) == [{number} for number in (1, 4, 7, 10, 13, 16)]
    assert train.counts is not None
    assert train.counts.tolist() == [3, 4, 3, 4, 3, 4]
    red, green, blue = train.images[0, 0, :, 0, 0].tolist()
    assert (red, green, blue) == (1, 0, 0)
    assert train.draw(SHAPE, torch.Generator().manual_seed(0)).query_inputs.shape == (4, 6, 3, 32, 32)


def test_the_super_classes_of_emoji_are_the_named_groups(small_data: Path) -> None:
    write_small_emoji(small_data)
    train = open_images("emoji", "train", hierarchy=1.0)
    assert train.super_classes is not None
    assert train.super_classes.tolist() == [0, 0, 0, -1, 2, 2]  # the file's group 1 is "Other"
    batch = train.draw(SHAPE, torch.Generator().manual_seed(0))
    drawn = (batch.support.inputs[:, :, 0].amax((2, 3)) * 255).round().long()
    assert all(set(row.tolist()) == {1, 4, 7} for row in drawn)  # the only group with three classes


def test_the_super_classes_of_omniglot_are_the_alphabets(small_data: Path) -> None:
    write_small_omniglot(small_data)
    still = open_images("omniglot", "train", rotations=False, hierarchy=0.5)
    assert still.super_classes is not None
    assert still.super_classes.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    turned = open_images("omniglot", "train", hierarchy=0.5)
    assert turned.super_classes is not None
    assert torch.bincount(turned.super_classes).tolist() == [4] * 12


def test_digits_are_those_of_the_demo() -> None:
    pictures, digits = demo.load_pictures()
    source = open_images("digits", "test")
    assert source.counts is not None
    assert source.counts.tolist() == np.bincount(digits).tolist()
    for digit in range(10):
        expected = pictures[digits == digit]
        assert np.array_equal(source.images[digit, : len(expected)].numpy(), expected)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_digits_are_never_trained_on(split: Split) -> None:
    with pytest.raises(InvalidOptions, match=f"digits are for evaluation only.*no {split} split"):
        open_episodes("digits", split)


@pytest.mark.parametrize(("source", "file"), [("icons", "icons28.npz"), ("emoji", "emoji_styles32.npz")])
def test_a_file_that_is_absent_or_no_data_is_named(small_data: Path, source: str, file: str) -> None:
    with pytest.raises(DataUnavailable, match=f"{small_data / file} is expected.*set INNERLOOP_DATA_DIR"):
        open_episodes(source, "train")
    np.savez(small_data / file, images=np.zeros(1))
    with pytest.raises(DataUnavailable, match=f"{file} must be an .npz file that holds images"):
        open_episodes(source, "train")


@pytest.mark.parametrize(
    ("source", "options", "complaint"),
    [
        ("icons", {"reflections": True}, "reflections must be false"),
        ("icons", {"hierarchy": 0.5}, "hierarchy must be 0: icons has no super-classes"),
        ("sinusoid", {"hierarchy": 0.5}, "hierarchy must be 0"),
    ],
)
def test_options_a_source_does_not_have_are_refused(source: str, options: dict[str, float], complaint: str) -> None:
    with pytest.raises(InvalidOptions, match=complaint):
        open_images(source, "train", **options)


def test_only_omniglot_is_turned() -> None:
    assert are_turned("omniglot")
    assert not are_turned("omniglot", rotations=False)
    assert not any(are_turned(source) for source in ("icons", "emoji", "digits", "sinusoid"))


def test_ragged_examples_are_stacked_in_their_order() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1) + 1
    stacked, counts = stack_ragged(images, np.array([2, 0, 2, 2, 0, 2]), 3)
    assert counts.tolist() == [2, 0, 4]
    assert stacked.flatten(1).tolist() == [[2, 5, 0, 0], [0, 0, 0, 0], [1, 3, 4, 6]]


@pytest.mark.parametrize(("source", "classes"), [("icons", [177, 59, 60]), ("emoji", [631, 210, 211])])
def test_the_real_files_have_the_classes_and_no_image_in_two_splits(source: str, classes: list[int]) -> None:
    file = {"icons": "icons28.npz", "emoji": "emoji_styles32.npz"}[source]
    if not (find_data_folder() / file).exists():
        pytest.skip(f"SKIPPED-DATA: {find_data_folder() / file} is not there")
    parts = [open_images(source, split) for split in SPLITS]
    assert [len(part.images) for part in parts] == classes
    firsts = [{row.numpy().tobytes() for row in part.images[:, 0]} for part in parts]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(firsts, 2))
