"""Percentiles by nearest rank."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.latency import percentile, summarise_ms

LATENCIES = st.lists(st.floats(0, 1e6), min_size=1)


def test_the_median_of_an_even_number_is_the_lower_middle_one() -> None:
    assert percentile([4, 1, 3, 2], 0.5) == 2


def test_the_p99_of_a_hundred_is_the_second_largest() -> None:
    assert percentile(list(range(1, 101)), 0.99) == 99


def test_the_p99_of_a_few_is_the_largest() -> None:
    assert percentile([5.0, 7.0, 6.0], 0.99) == 7.0


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(percentile([], 0.5))


@given(LATENCIES, st.floats(0, 1))
def test_a_percentile_is_a_value_that_its_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


@given(LATENCIES)
def test_a_summary_is_ordered(values: list[float]) -> None:
    summary = summarise_ms(values)
    assert summary["p50_ms"] <= summary["p99_ms"]
    assert min(values) - 0.001 <= summary["mean_ms"] <= max(values) * (1 + 1e-9) + 0.001
