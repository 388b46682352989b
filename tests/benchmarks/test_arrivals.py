"""Poisson arrivals."""

from __future__ import annotations

from itertools import pairwise
from statistics import mean, pstdev

import pytest

from benchmarks.arrivals import poisson_arrivals_s


def test_arrivals_rise_and_stay_within_the_duration() -> None:
    due_s = poisson_arrivals_s(100, 5, seed=1)
    assert due_s == sorted(due_s)
    assert due_s[0] > 0
    assert due_s[-1] < 5


def test_there_are_about_as_many_as_the_rate_says() -> None:
    assert len(poisson_arrivals_s(1000, 20, seed=2)) == pytest.approx(20_000, rel=0.05)


def test_gaps_are_as_irregular_as_exponential_ones() -> None:
    due_s = poisson_arrivals_s(1000, 20, seed=3)
    gaps_s = [later - earlier for earlier, later in pairwise(due_s)]
    assert pstdev(gaps_s) == pytest.approx(mean(gaps_s), rel=0.05)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    assert poisson_arrivals_s(50, 2, seed=4) == poisson_arrivals_s(50, 2, seed=4)
    assert poisson_arrivals_s(50, 2, seed=4) != poisson_arrivals_s(50, 2, seed=5)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        poisson_arrivals_s(0, 1, seed=0)
