"""Figures of contenders that took turns."""

from __future__ import annotations

from benchmarks.rounds import join_rounds


def test_a_slow_round_does_not_move_the_ratio() -> None:
    row = join_rounds({}, "queries/s", [{"ours": 200, "peer": 100}, {"ours": 20, "peer": 10}, {"ours": 220, "peer": 100}])
    assert (row.ours, row.peers, row.ratio) == (200, {"peer": 100}, 2.0)


def test_of_a_time_less_is_better() -> None:
    row = join_rounds({}, "ms", [{"ours": 10, "slow": 40, "fast": 20}])
    assert row.ratio == 2.0


def test_without_peers_there_is_no_ratio() -> None:
    row = join_rounds({}, "ms", [{"ours": 10}], note="alone")
    assert row.ratio is None
    assert row.details == {"rounds": 1, "ratio_range": None, "note": "alone"}
    assert (row.limit_fraction, row.peak_fraction) == (None, None)


def test_shares_are_of_the_median() -> None:
    row = join_rounds({}, "queries/s", [{"ours": 100}, {"ours": 20}, {"ours": 110}], limit=200, peak=400)
    assert (row.limit_fraction, row.peak_fraction) == (0.5, 0.25)
