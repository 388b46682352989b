from __future__ import annotations

from collections import Counter

import pytest

from benchmarks import timing
from benchmarks.timing import LEAST_REPETITIONS, Timings, time_paired


def test_every_contender_runs_once_a_repetition_in_rotated_order() -> None:
    calls: list[str] = []
    names = ("ours", "b", "c")
    timings = time_paired({name: lambda name=name: calls.append(name) for name in names}, repetitions=3, warm_up=1)  # type: ignore[misc]
    rounds = [calls[start : start + 3] for start in range(0, 12, 3)]
    assert all(Counter(each) == Counter(names) for each in rounds)
    assert {each[0] for each in rounds[1:]} == set(names)
    assert {len(spans) for spans in timings.spans_s.values()} == {3}


def test_a_spent_budget_ends_the_timing_but_not_before_there_is_a_median() -> None:
    timings = time_paired({"ours": lambda: None}, repetitions=1000, budget_s=0.0)
    assert len(timings.spans_s["ours"]) == LEAST_REPETITIONS


def test_who_does_a_part_of_the_work_is_charged_with_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "time_once", lambda contender, device: 1.0)
    timings = time_paired({"ours": lambda: None, "half": lambda: None}, repetitions=5, shares={"half": 0.5})
    assert timings.ratio("half").median == 2


def test_the_ratio_is_the_median_of_paired_ratios_and_not_the_ratio_of_medians() -> None:
    timings = Timings({"ours": [1.0, 10.0, 2.0], "peer": [3.0, 20.0, 5.0]})
    spread = timings.ratio("peer")
    assert spread.median == pytest.approx(2.5)
    assert (spread.q1, spread.q3) == pytest.approx((2.25, 2.75))
    row = timings.to_row({})
    assert row.ratio == pytest.approx(2.5)
    assert row.peers == {"peer": 5000.0}
    assert row.ours == 2000.0


def test_a_row_compares_with_the_fastest_peer() -> None:
    row = Timings({"ours": [1.0], "slow": [9.0], "fast": [2.0]}).to_row({"lanes": 1})
    assert row.ratio == 2.0
    assert row.details["fastest_peer"] == "fast"
    assert list(row.peers) == ["fast", "slow"]


def test_the_share_of_the_limit_is_the_least_time_over_ours() -> None:
    assert Timings({"ours": [0.02]}).to_row({}, limit_s=0.005).limit_fraction == pytest.approx(0.25)
    assert Timings({"ours": [0.02]}).to_row({}).limit_fraction is None


def test_the_share_of_the_peak_is_another_and_may_be_unknown() -> None:
    row = Timings({"ours": [0.02]}).to_row({}, limit_s=0.005, peak_s=0.002)
    assert (row.limit_fraction, row.peak_fraction) == pytest.approx((0.25, 0.1))
    assert Timings({"ours": [0.02]}).to_row({}, limit_s=0.005).peak_fraction is None
