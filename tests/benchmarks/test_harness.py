from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.catalogue import Refused, list_benchmarks
from benchmarks.harness import Findings, Plan, Row, make_row, run_benchmark, to_line, to_sentence


def test_of_a_time_the_smallest_peer_is_the_fastest() -> None:
    row = make_row({}, "ms", ours=2.0, peers={"slow": 9.0, "fast": 5.0})
    assert row.ratio == 2.5


def test_of_a_rate_the_largest_peer_is_the_fastest() -> None:
    row = make_row({}, "queries/s", ours=30.0, peers={"slow": 10.0, "fast": 20.0})
    assert row.ratio == 1.5


def test_a_row_without_peers_has_no_ratio() -> None:
    assert make_row({}, "bytes", 10.0, {}).ratio is None


def test_details_of_a_row_are_kept() -> None:
    assert make_row({}, "ms", 1.0, {}, p99_ms=3.0).details == {"p99_ms": 3.0}


def test_a_smoke_run_repeats_twice() -> None:
    assert Plan(quick=True).repetitions(30) == 2
    assert Plan().repetitions(30) == 30


def test_a_plan_chooses_settings_by_name_and_refuses_a_name_that_none_has() -> None:
    plan = Plan(only="1[ab]$")
    assert plan.choose(["1a", "2a", "1b"]) == ["1a", "1b"]
    with pytest.raises(Refused) as refusal:
        plan.choose(["2a", "2b"])
    assert "2a; 2b" in str(refusal.value)
    with pytest.raises(Refused, match="regular expression"):
        Plan(only="(").choose(["1a"])


def test_the_benchmarks_are_found_by_their_run_function() -> None:
    names = list_benchmarks()
    assert {"adapt", "train"} <= set(names)
    assert {"harness", "timing", "normalisation", "flops"}.isdisjoint(names)


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Refused) as refusal:
        run_benchmark("nonsense", Plan(), "")
    assert "adapt" in str(refusal.value)


def test_a_report_is_one_line_of_json_with_everything_a_reader_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import train

    row = make_row({"lanes": 4}, "ms", 2.0, {"plain loop": 5.0}, limit_fraction=0.5, peak_fraction=0.25)
    monkeypatch.setattr(train, "run", lambda plan: Findings([row], {"data": "none"}, {"higher": "not installed"}))
    line = to_line(run_benchmark("train", Plan(quick=True), "innerloop benchmark train"))
    report = json.loads(line)
    assert "\n" not in line
    assert set(report) == {"benchmark", "environment", "settings", "missing_peers", "rows"}
    assert report["environment"]["command"] == "innerloop benchmark train"
    assert {"cpu", "cores", "threads", "torch_version", "date", "git_revision"} <= set(report["environment"])
    assert report["settings"] == {"quick": True, "data": "none"}
    assert report["missing_peers"] == {"higher": "not installed"}
    expected = {"settings": {"lanes": 4}, "unit": "ms", "ours": 2.0, "peers": {"plain loop": 5.0}, "ratio": 2.5}
    assert report["rows"] == [{**expected, "limit_fraction": 0.5, "peak_fraction": 0.25, "details": {}}]


def test_what_is_measured_is_kept_row_by_row_and_at_the_end_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import train

    rows, kept = [make_row({"lanes": lanes}, "ms", 2.0, {}) for lanes in (1, 4)], list[Mapping[str, Any]]()

    def run(plan: Plan) -> Findings:
        for row in rows:
            plan.report(row)
        return Findings(rows, {"data": "none"})

    monkeypatch.setattr(train, "run", run)
    whole = run_benchmark("train", Plan(), "innerloop benchmark train", kept.append)
    assert [len(each["rows"]) for each in kept] == [1, 2, 2]
    assert [each["settings"].get("unfinished", False) for each in kept] == [True, True, False]
    assert kept[-1] == whole


def test_a_number_that_json_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError):
        to_line({"rows": [math.nan]})


def test_people_read_a_row_as_a_sentence() -> None:
    row = Row({"lanes": 4}, "ms", 2.0, {"plain loop": 5.0}, 2.5, 0.25)
    sentence = "lanes=4: ours 2 ms; plain loop 5 ms | 2.50x the fastest peer | 25 % of the limit"
    assert to_sentence(row) == sentence
    assert to_sentence(replace(row, peak_fraction=0.125)) == f"{sentence} | 12 % of the peak"
