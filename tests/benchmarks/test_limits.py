"""Limits of calls: the machine's rates over the FLOPs of a call of the bundled learner."""

from __future__ import annotations

import pytest

from benchmarks.flops import count_forward, count_head, count_maml
from benchmarks.limits import find_backbone, find_call_limits, find_prediction_limits, hold_to_limits
from benchmarks.rates import Rates
from benchmarks.timing import Timings
from models.artifact import BUNDLED, read_card

MAML = BUNDLED / "omniglot-maml"
RATES = Rates(1e9, 2e9)


def test_a_row_has_its_shares_and_what_they_are_computed_from() -> None:
    """4 MFLOP in 20 ms, where the machine's products do 20 MFLOP and its multiply-adds 40."""
    row = hold_to_limits(Timings({"ours": [0.02]}), {"lanes": 1}, 4_000_000, 5_000_000, RATES, steps_per_s=50.0)
    assert row.limit_fraction == pytest.approx(0.2)
    assert row.peak_fraction == pytest.approx(0.1)
    assert row.details["limit_fraction_as_written"] == pytest.approx(0.25)
    shown = {"gflop": 0.004, "gflop_as_written": 0.005, "steps_per_s": 50.0, **RATES.describe()}
    assert row.details.items() >= shown.items()


def test_a_prediction_is_a_forward_of_one_image_and_a_head() -> None:
    backbone = find_backbone(MAML)
    limits = find_prediction_limits(MAML, 5, RATES)
    assert limits.matmul == 1e9 / (count_forward(backbone, 1) + count_head(backbone, 1, 5))
    assert limits.peak == 2 * limits.matmul


def test_the_mixed_workload_lies_between_its_parts_by_their_shares() -> None:
    limits = find_call_limits(MAML, 5, 1, RATES, adapting_share=0.25)
    assert limits["predict"] == find_prediction_limits(MAML, 5, RATES)
    steps = read_card(MAML).learner["inner_steps"]
    assert limits["adapt"].matmul == pytest.approx(1e9 / count_maml(find_backbone(MAML), 5, 5, steps))
    assert 1 / limits["mixed"].matmul == pytest.approx(0.25 / limits["adapt"].matmul + 0.75 / limits["predict"].matmul)


def test_without_a_peak_no_call_has_one() -> None:
    limits = find_call_limits(MAML, 5, 1, Rates(1e9, None), adapting_share=0.25)
    assert {limit.peak for limit in limits.values()} == {None}
