"""docs/performance.md and the README say what the benchmarks' files say."""

from __future__ import annotations

from benchmarks.markdown import replace_between
from benchmarks.performance_page import PAGE, README, RESULTS, write_page, write_summary
from benchmarks.reports import read_reports

COMMAND = "run python -m benchmarks.performance_page"


def test_the_page_has_the_figures_of_the_files() -> None:
    page = PAGE.read_text()
    assert write_page(page, read_reports(RESULTS)) == page, COMMAND


def test_the_readme_has_the_figures_of_the_files() -> None:
    text = README.read_text()
    assert replace_between(text, "SPEED", write_summary(read_reports(RESULTS))) == text, COMMAND


def test_every_file_is_of_a_benchmark_that_the_page_has() -> None:
    known = {"adapt", "train", "paths", "predict", "serve", "cache", "memory"}
    assert {report.benchmark for report in read_reports(RESULTS).reports} <= known
