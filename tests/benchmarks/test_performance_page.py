"""The generator on files made by hand: parts of one benchmark are joined, what is missing is said, targets are judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.performance_page import PAGE, write_page, write_section, write_summary
from benchmarks.performance_targets import NO_GPU, UNKNOWN, write_targets
from benchmarks.reports import Reports, read_reports

ENVIRONMENT = {"cpu": "Some CPU", "cores": 2, "load_1min": 0.1, "threads": 2, "device": "cpu", "torch_version": "2", "git_revision": "abc"}
CONTENDERS = {
    "ours": {
        "unanswered": 0,
        "predict": {
            "p50_ms": 2.0,
            "p99_ms": 4.0,
            "mean_ms": 2.1,
            "requests": 9,
            "phases_ms": {"decode": 0.5, "batch": 0.1, "device": 1.0, "outside": 0.6},
        },
        "lanes_per_batch": {"predict": 7.5},
    }
}


def leave(folder: Path, name: str, benchmark: str, rows: list[dict[str, Any]], date: str = "2026-11-21", **settings: Any) -> None:
    environment = {**ENVIRONMENT, "date": date, "command": f"innerloop benchmark {benchmark}"}
    report = {
        "benchmark": benchmark,
        "environment": environment,
        "settings": {"quick": False, **settings},
        "missing_peers": {},
        "rows": rows,
    }
    (folder / f"{name}.json").write_text(f"ours 1.0\n{json.dumps(report)}\n")


def adapt_row(lanes: int, ours_ms: float, shot: int = 1, ratio: float = 2.5, limit_fraction: float = 0.6) -> dict[str, Any]:
    settings = {"method": "maml", "backbone": "conv4-64 stride", "way": 5, "shot": shot, "steps": 5, "lanes": lanes}
    details = {"adaptations_per_s": 1e3 * lanes / ours_ms, "ratio_iqr": [ratio - 0.1, ratio + 0.1], "fastest_peer": "plain loop"}
    peers = {"plain loop": ours_ms * ratio}
    return {"settings": settings, "ours": ours_ms, "peers": peers, "ratio": ratio, "limit_fraction": limit_fraction, "details": details}


def serve_row(peers: dict[str, float], deployment: str = "embedded", clients: int = 64, rate_per_s: int | None = None) -> dict[str, Any]:
    loop: dict[str, Any] = {"loop": "closed"} if rate_per_s is None else {"loop": "open", "rate_per_s": rate_per_s}
    settings = {"deployment": deployment, "workload": "predict", "clients": clients, **loop}
    details = {"ratio_range": [1.0, 2.0], "contenders": CONTENDERS}
    return {"settings": settings, "ours": 600.0, "peers": peers, "ratio": 1.5, "limit_fraction": 0.1, "details": details}


def lines_with(text: str, words: str) -> list[str]:
    return [line for line in text.splitlines() if words in line]


def test_nothing_measured_is_a_page_that_says_so() -> None:
    nothing = Reports([])
    page = write_page(PAGE.read_text(), nothing)
    assert write_section("adapt", nothing) == f"{UNKNOWN}\n"
    assert page.count(f"-->\n{UNKNOWN}\n<!--") == 7
    assert write_summary(nothing) == f"{UNKNOWN}\n"


def test_several_files_are_one_table_and_the_later_of_equal_settings_counts(tmp_path: Path) -> None:
    leave(tmp_path, "adapt-1", "adapt", [adapt_row(64, 123.4), adapt_row(1, 4.0)], date="2026-11-22")
    leave(tmp_path, "adapt-2", "adapt", [adapt_row(64, 999.0), adapt_row(16, 40.0)], date="2026-11-21")
    section = write_section("adapt", read_reports(tmp_path))
    assert [row.split(" | ")[2] for row in lines_with(section, "| conv4-64 stride")] == ["1", "16", "64"]
    assert "999" not in section
    assert lines_with(section, "| maml, conv4-64 stride, 1-shot | 30.9x |")
    assert "results/performance/adapt-1.json" in section
    assert "results/performance/adapt-2.json" in section


def test_a_target_is_missed_where_one_setting_misses_it(tmp_path: Path) -> None:
    rows = [adapt_row(16, 40.0), adapt_row(16, 90.0, shot=5, ratio=1.5), adapt_row(1, 4.0, ratio=1.31)]
    leave(tmp_path, "adapt", "adapt", rows)
    targets = write_targets(read_reports(tmp_path))
    many, limit, one, growth = lines_with(targets, "adapt, maml")
    assert "1.50x to 2.50x | **missed** in 1 of 2: 5-shot |" in many
    assert "60.0 % | reached" in limit
    assert "1.31x | reached" in one
    assert UNKNOWN in growth
    assert all(NO_GPU in line for line in targets.splitlines()[2:])


def test_the_plain_endpoint_is_met_with_the_threads_that_suit_it_best(tmp_path: Path) -> None:
    leave(tmp_path, "serve", "serve", [serve_row({"plain endpoint": 150.0, "plain endpoint, 1 torch threads": 300.0, "litserve": 400.0})])
    reports = read_reports(tmp_path)
    assert "2.00x | **missed**" in lines_with(write_targets(reports), "predictions/s over HTTP")[0]
    assert "600 predictions a second, 2.00 times those of a plain FastAPI endpoint" in write_summary(reports)
    assert lines_with(write_section("serve", reports), "| predict, 64 clients: predict | 2.00 | 4.00 | 2.10 | 0.50 | 0.10 | 1.00 | 0.60 |")


def test_loops_of_one_deployment_stand_in_tables_of_their_own_and_clients_of_one_rate_stand_together(tmp_path: Path) -> None:
    open_loops = [serve_row({}, clients=clients, rate_per_s=rate) for clients, rate in [(1, 200), (64, 50), (64, 200), (128, 200)]]
    rows = [serve_row({}), *open_loops, serve_row({}, "separated"), serve_row({}, "separated", rate_per_s=50)]
    leave(tmp_path, "serve", "serve", rows)
    embedded, separated = write_section("serve", read_reports(tmp_path)).split("**separated**, closed loop")
    assert lines_with(embedded, "| workload | rate/s | clients | ours |")
    opened = [line.split(" | ")[1:3] for line in lines_with(embedded.partition("open loop")[2], "| predict | ")]
    assert opened == [["50", "64"], ["200", "1"], ["200", "64"], ["200", "128"]]
    assert lines_with(separated, "| predict | 50 | 64 | 600 |")
    assert not lines_with(separated, "| predict | 200 |")


def test_targets_speak_of_closed_loops_of_the_embedded_service_alone(tmp_path: Path) -> None:
    fast, slow = {"plain endpoint": 1200.0}, {"plain endpoint": 150.0}
    others = [serve_row(fast, rate_per_s=200), serve_row(fast, "separated"), serve_row(fast, clients=128)]
    leave(tmp_path, "serve", "serve", [serve_row(slow), *others])
    reports = read_reports(tmp_path)
    assert "4.00x | reached" in lines_with(write_targets(reports), "predictions/s over HTTP")[0]
    assert len(lines_with(write_summary(reports), "predictions a second")) == 1


def test_the_share_of_the_peak_stands_beside_that_of_the_limit_and_files_without_it_are_read(tmp_path: Path) -> None:
    leave(tmp_path, "adapt", "adapt", [adapt_row(1, 4.0), {**adapt_row(16, 40.0, limit_fraction=1.8), "peak_fraction": 0.7}])
    reports = read_reports(tmp_path)
    header, old, new = lines_with(write_section("adapt", reports), "|")[0], *lines_with(write_section("adapt", reports), "| conv4-64")
    assert header.endswith("| of the limit | of the peak |")
    assert old.endswith("| 60 % | - |")
    assert new.endswith("| 180 % | 70 % |")
    assert "180 % of the rate of a large matrix product and 70 % of the arithmetic peak" in write_summary(reports)
    assert "180.0 % | reached" in lines_with(write_targets(reports), "of the limit")[0]


def test_meta_gradients_have_their_shares_and_files_without_them_are_read(tmp_path: Path) -> None:
    details = {"steps_per_s": 10.0, "ratio_iqr": [2.9, 3.1], "fastest_peer": "plain loop"}
    settings = {"method": "maml", "backbone": "conv4-64 pool", "tasks": 16}
    old = {"settings": settings, "ours": 100.0, "peers": {"plain loop": 300.0}, "ratio": 3.0, "limit_fraction": None, "details": details}
    new = {**old, "settings": {**settings, "backbone": "conv4-64 stride"}, "limit_fraction": 1.1, "peak_fraction": 0.45}
    leave(tmp_path, "train", "train", [old, new])
    lines = lines_with(write_section("train", read_reports(tmp_path)), "|")
    assert lines[0].endswith("| of the limit | of the peak |")
    assert [line.split(" | ")[-2:] for line in lines[2:]] == [["-", "- |"], ["110 %", "45 % |"]]


def test_predictions_have_a_share_of_the_peak_where_it_is_known(tmp_path: Path) -> None:
    details = {"p50_ms": 1.0, "p99_ms": 2.0, "lost_from_5_tasks": None, "ratio_range": [1.0, 2.0]}
    settings = {"initializer": "omniglot-maml", "resident_tasks": 1, "callers": 1}
    old = {"settings": settings, "ours": 600.0, "peers": {}, "ratio": 1.5, "limit_fraction": 0.1, "details": details}
    new = {**old, "settings": {**settings, "callers": 64}, "peak_fraction": 0.05}
    leave(tmp_path, "predict", "predict", [old, new])
    lines = lines_with(write_section("predict", read_reports(tmp_path)), "|")
    assert lines[0].endswith("| of the limit | of the peak |")
    assert [line.split(" | ")[-2:] for line in lines[2:]] == [["10 %", "- |"], ["10 %", "5.0 % |"]]


def test_what_is_lost_of_throughput_stands_with_its_spread_where_it_is_known(tmp_path: Path) -> None:
    details = {"p50_ms": 1.0, "p99_ms": 2.0, "lost_from_5_tasks": 0.05, "ratio_range": [1.0, 2.0]}
    settings = {"initializer": "omniglot-maml", "resident_tasks": 2000, "callers": 1}
    old = {"settings": settings, "ours": 600.0, "peers": {}, "ratio": 1.5, "limit_fraction": 0.1, "details": details}
    new = {**old, "settings": {**settings, "callers": 64}, "details": {**details, "lost_quartiles": [-0.01, 0.12]}}
    leave(tmp_path, "predict", "predict", [old, new])
    lines = lines_with(write_section("predict", read_reports(tmp_path)), "`omniglot-maml`")
    assert [line.split(" | ")[6] for line in lines] == ["5.0 %", "5.0 % (-1.0 % to 12 %)"]


def test_a_smoke_run_is_refused(tmp_path: Path) -> None:
    leave(tmp_path, "adapt", "adapt", [adapt_row(16, 40.0)], quick=True)
    with pytest.raises(SystemExit, match="smoke run"):
        read_reports(tmp_path)
