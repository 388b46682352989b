"""Smoke runs: every benchmark of serving gives rows that a reader understands, in a few seconds."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from benchmarks.catalogue import list_benchmarks
from benchmarks.harness import Plan, run_benchmark, to_line

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # about 15 s for the longest on an idle machine, minutes on a busy one
SERVING = ("predict", "serve", "cache", "memory")


@pytest.fixture(scope="module", params=SERVING)
def report(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The report of one benchmark's smoke run."""
    return run_benchmark(request.param, Plan(quick=True), f"innerloop benchmark {request.param} --quick")


def test_all_of_them_are_known_by_name() -> None:
    assert set(SERVING) <= set(list_benchmarks())


def test_a_report_is_one_line_of_json(report: dict[str, Any]) -> None:
    line = to_line(report)
    assert "\n" not in line
    assert json.loads(line)["benchmark"] in SERVING


def test_every_row_has_its_settings_and_its_figures(report: dict[str, Any]) -> None:
    assert report["rows"]
    for row in report["rows"]:
        assert row["settings"]
        assert math.isfinite(row["ours"])
        assert row["ours"] > 0
        assert all(figure > 0 for figure in row["peers"].values())
        assert (row["ratio"] is not None) == bool(row["peers"])
        assert all(row[share] is None or 0 < row[share] <= 1 for share in ("limit_fraction", "peak_fraction"))


def test_no_two_rows_have_the_same_settings(report: dict[str, Any]) -> None:
    settings = [json.dumps(row["settings"]) for row in report["rows"]]
    assert len(set(settings)) == len(settings)
