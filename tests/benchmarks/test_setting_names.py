"""Settings in words: short where many are chosen, and never more or fewer than those."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest

from benchmarks.setting_names import Name, count, tell_chosen

ALL = list(product(("in-process", "redis"), ("1 caller", "16 callers"), ("sweep", "zipf"), ("2x", "3x", "10x")))


def tell(*chosen: Name, among: Sequence[Name] = ALL) -> str:
    return tell_chosen({name: name in chosen for name in among})


def test_settings_that_differ_in_one_part_share_a_line() -> None:
    assert tell(ALL[0]) == "in-process, 1 caller, sweep: 2x"
    assert tell(*ALL[:2]) == "in-process, 1 caller, sweep: 2x and 3x"
    assert tell(ALL[0], ALL[3]) == "in-process, 1 caller: 2x"  # of sweep and of zipf: they make no difference
    assert tell(("redis", "1 caller", "sweep", "2x"), ALL[-1]) == "redis, 1 caller, sweep: 2x; redis, 16 callers, zipf: 10x"


def test_all_of_a_kind_are_called_all() -> None:
    assert tell(*ALL[:3]) == "in-process, 1 caller, sweep: all"
    assert tell(*ALL[:9]) == "in-process, 1 caller: all; in-process, 16 callers, sweep: all"
    assert tell(*ALL[:12]) == "in-process: all"
    assert tell(*ALL) == "all"


def test_a_part_that_makes_no_difference_is_left_out_wherever_it_stands() -> None:
    assert tell(*(name for name in ALL if name[3] == "10x")) == "10x"
    assert tell(*(name for name in ALL if name[1] == "1 caller")) == "1 caller: all"
    assert tell(*(name for name in ALL if name[0] == "redis" and name[2] == "zipf")) == "redis, zipf: all"
    assert tell(("maml", "5-shot"), among=[("maml", "1-shot"), ("maml", "5-shot")]) == "5-shot"


def test_parts_with_the_same_choice_behind_them_are_joined_whatever_its_order() -> None:
    among = [("a", "2x"), ("a", "3x"), ("b", "2x"), ("b", "3x"), ("c", "3x"), ("c", "2x")]
    assert tell(("a", "2x"), ("c", "2x"), among=among) == "a and c: 2x"
    assert tell(("a", "2x"), ("b", "2x"), among=among) == "a and b: 2x"
    assert tell(("a",), ("b",), ("d",), among=[("a",), ("b",), ("c",), ("d",)]) == "a, b and d"


def test_all_is_all_that_was_measured() -> None:
    among = [("a", "2x"), ("a", "3x"), ("b", "2x"), ("c", "2x"), ("c", "3x")]
    assert tell(("a", "2x"), ("a", "3x"), ("b", "2x"), among=among) == "a: all; b: all"


@pytest.mark.parametrize(("number", "expected"), [(0, "0 lanes"), (1, "1 lane"), (64, "64 lanes")])
def test_a_number_has_its_noun(number: int, expected: str) -> None:
    assert count(number, "lane") == expected
