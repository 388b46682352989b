"""Support sets are checked once when they are made, then stacked, padded and split without loss."""

from __future__ import annotations

import pytest
import torch

from models.errors import InvalidSupport
from models.support import State, make_support, split_state, stack_states, stack_supports


def test_stacking_pads_examples_and_classes_and_masks_them() -> None:
    small = make_support(torch.ones(2, 3), torch.tensor([0, 1]), 2)
    large = make_support(torch.ones(4, 3), torch.tensor([0, 1, 2, 2]), 3)
    both = stack_supports([small, large])
    assert both.inputs.shape == (2, 4, 3)
    assert both.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert both.class_mask.tolist() == [[True, True, False], [True] * 3]


def test_padding_comes_behind_the_real_examples_also_when_batches_are_stacked_again() -> None:
    lanes = [make_support(torch.ones(count, 3), torch.arange(count), count) for count in (2, 4, 1, 5)]
    mask = stack_supports([stack_supports(lanes[:2]), stack_supports(lanes[2:])]).mask
    assert mask.sum(1).tolist() == [2, 4, 1, 5]
    assert not (mask[:, 1:] & ~mask[:, :-1]).any()  # nowhere a real example behind padding


def test_states_survive_stacking_and_splitting() -> None:
    first = {"class.mask": torch.ones(1, 2, dtype=torch.bool), "class.weight": torch.rand(1, 2, 5), "body": torch.rand(1, 4)}
    second = {"class.mask": torch.ones(1, 3, dtype=torch.bool), "class.weight": torch.rand(1, 3, 5), "body": torch.rand(1, 4)}
    for before, after in zip((first, second), split_state(stack_states([first, second])), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_rows_of_examples_survive_stacking_and_splitting() -> None:
    few, many = make_example_state(2, 3), make_example_state(3, 5)
    both = stack_states([few, many])
    assert both["example.feature"].shape == (2, 5, 4)
    assert both["example.mask"].tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert both["example.feature"][0, 3:].eq(0).all()
    for before, after in zip((few, many), split_state(both), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_numbers_of_each_example_and_class_are_padded_and_cut_on_both_axes() -> None:
    lanes = [make_pair_state(2, 5), make_pair_state(4, 3)]
    both = stack_states(lanes)
    assert both["pair.dual"].shape == (2, 5, 4)
    assert both["pair.dual"][0, :, 2:].eq(0).all()
    assert both["pair.dual"][1, 3:].eq(0).all()
    assert both["pair.place"].shape == (2, 5, 4, 6)
    for before, after in zip(lanes, split_state(both), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)


def make_pair_state(n_way: int, n_support: int) -> State:
    """A state with numbers, and with rows, of each example and class."""
    pairs = {"pair.dual": torch.rand(1, n_support, n_way), "pair.place": torch.rand(1, n_support, n_way, 6)}
    return {**make_example_state(n_way, n_support), **pairs}


def make_example_state(n_way: int, n_support: int) -> State:
    """A state with rows of classes and of examples, of different numbers."""
    return {
        "class.mask": torch.ones(1, n_way, dtype=torch.bool),
        "class.weight": torch.rand(1, n_way, 5),
        "example.mask": torch.ones(1, n_support, dtype=torch.bool),
        "example.feature": torch.rand(1, n_support, 4),
        "example.target": torch.randint(n_way, (1, n_support)),
    }


@pytest.mark.parametrize(
    ("count", "targets", "n_way", "words"),
    [
        (0, [], 2, "empty"),
        (2, [0], 2, "2 inputs but 1 targets"),
        (2, [0, 0], 2, r"classes \[1\] have no example"),
        (2, [0, 5], 2, r"must be in \[0, 2\), got \[5\]"),
    ],
)
def test_a_faulty_support_set_is_refused(count: int, targets: list[int], n_way: int, words: str) -> None:
    with pytest.raises(InvalidSupport, match=words):
        make_support(torch.rand(count, 3), torch.tensor(targets, dtype=torch.int64), n_way)
