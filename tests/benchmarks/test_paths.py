"""The table of paths compares two paths, on the same work, and says who is the faster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import paths
from benchmarks.harness import OURS, Disagreement, Plan
from benchmarks.performance_tables import tabulate_paths
from benchmarks.reports import Report, Reports, Row
from models.backbones import Conv4

IMAGE = torch.zeros(1, 1, 1, 28, 28)
pytestmark = pytest.mark.skipif(Conv4((1, 28, 28)).find_native(IMAGE) is None, reason="no C compiler: there is one path only")


def test_every_learner_of_a_plain_network_is_compared_at_every_number_of_lanes() -> None:
    names = [str(setting) for setting in paths.list_settings(quick=False)]
    assert len(set(names)) == len(names)
    for name in ("omniglot-maml", "omniglot-anil", "omniglot-protonet", "omniglot-ridge", "omniglot-metasgd"):
        assert {f"{work} {name} {lanes} lanes" for work in ("adapt", "predict") for lanes in (1, 4, 16, 64)} <= set(names)
    assert not any("attention" in name for name in names)


def test_without_the_library_a_network_is_torch_s_and_afterwards_it_is_not() -> None:
    backbone = Conv4((1, 28, 28))
    with paths.without_native():
        assert backbone.find_native(IMAGE) is None
    assert backbone.find_native(IMAGE) is not None


def test_the_command_ends_with_a_row_for_each_kind_of_work() -> None:
    rows = paths.run(Plan(quick=True)).rows
    assert [row.settings["work"] for row in rows] == ["adapt", "predict"]
    assert all(set(row.peers) == {paths.TORCH, paths.LOOP} for row in rows)
    assert all(row.ratio and 0 < row.details["difference"] <= paths.TOLERANCE for row in rows), "two paths have other last digits"


def test_paths_that_answer_differently_are_not_compared() -> None:
    with pytest.raises(Disagreement, match="omniglot-maml"):
        paths.check_answers("omniglot-maml", np.zeros(2), np.array([0.0, 1e-3]))


def test_the_table_says_where_torch_is_the_faster_by_more_than_chance() -> None:
    rows = [make_row("adapt", 1, [1.1, 1.2]), make_row("predict", 1, [0.9, 1.1]), make_row("adapt", 4, [0.7, 0.8])]
    table = tabulate_paths(Reports([Report(Path("paths.json"), "paths", {"date": ""}, {}, {}, rows)]))
    assert "Of 3 settings torch is the faster in 1: adapt of `omniglot-maml`, 4 lanes; C is 0.75 to 1.15 times as fast." in table
    assert "| `omniglot-maml` | 1 | 2.00 | 2.30 | - | 1.15x (1.10 to 1.20) | 2.00 | 2.00 | - | 1.00x (0.90 to 1.10) |" in table
    assert "| `omniglot-maml` | 4 | 2.00 | 1.50 | - | 0.75x (0.70 to 0.80) | - | - | - | - |" in table


def make_row(work: str, lanes: int, quartiles: list[float]) -> Row:
    settings, ratio = {"initializer": "omniglot-maml", "work": work, "lanes": lanes}, sum(quartiles) / 2
    return {"settings": settings, OURS: 2.0, "peers": {paths.TORCH: 2 * ratio}, "ratio": ratio, "details": {"ratio_iqr": quartiles}}
