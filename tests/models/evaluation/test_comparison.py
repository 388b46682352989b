from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models.artifact import BUNDLED, load_initializer, read_card
from models.errors import CheckpointCorrupt, InvalidOptions
from models.evaluation import evaluate
from models.evaluation.comparison import choose_folders, is_measured, measure_jobs, pick_rows, plan_jobs, rows_of_card
from models.evaluation.comparison_report import read_rows, tabulate, write_comparison

SINUSOID = BUNDLED / "sinusoid-maml"


def row(initializer: str, accuracy: float, way: int = 5, **more: Any) -> dict[str, Any]:
    return {"initializer": initializer, "learner": "x", "way": way, "shot": 1, "steps": 0, "accuracy": accuracy, "ci95": 0.5, **more}


def test_a_row_is_what_evaluate_measures_on_the_same_seed() -> None:
    rows = list(measure_jobs(plan_jobs([SINUSOID], "sinusoid", episodes=20, seed=3)))
    assert [(r["shot"], r["steps"]) for r in rows] == [(5, 1), (5, 10), (5, 5), (10, 5), (20, 5)]
    alone = evaluate(load_initializer(SINUSOID), k_shot=10, episodes=20, n_query=100, seed=3)
    assert rows[3]["mse"] == alone.mse
    assert rows[3]["mse_transductive"] == alone.mse_transductive


def test_processes_change_nothing_but_the_time() -> None:
    jobs = plan_jobs([SINUSOID], "sinusoid", episodes=4)
    alone, shared = ([{**r, "seconds": 0} for r in measure_jobs(jobs, processes)] for processes in (1, 2))
    assert alone == shared


def test_a_row_of_the_same_weights_and_episodes_is_not_measured_again() -> None:
    jobs = plan_jobs([SINUSOID], "sinusoid", episodes=4)
    [first] = measure_jobs(jobs[:1])
    assert is_measured(jobs[0], [first])
    assert not is_measured(jobs[1], [first])
    assert not is_measured(jobs[0], [{**first, "sha256": "other weights"}])
    assert not is_measured(plan_jobs([SINUSOID], "sinusoid", episodes=4, seed=1)[0], [first])


def test_rows_of_the_card_count_as_measured() -> None:
    jobs = plan_jobs([SINUSOID], "sinusoid")
    rows = rows_of_card(read_card(SINUSOID), "sinusoid")
    assert pick_rows(jobs, rows + rows) == [row for job in jobs for row in rows if is_measured(job, [row])]
    assert all(is_measured(job, rows) for job in jobs)
    assert rows_of_card(read_card(SINUSOID), "omniglot") == []


def test_settings_that_the_data_cannot_give_are_left_out() -> None:
    jobs = plan_jobs([BUNDLED / "omniglot-protonet"], "digits")
    assert {job.setting.n_way for job in jobs} == {5}  # there are ten digits


def test_only_initializers_that_read_the_data_are_chosen() -> None:
    assert choose_folders([SINUSOID, BUNDLED / "omniglot-maml"], "sinusoid") == [SINUSOID]


def test_the_table_has_the_best_at_the_top_and_says_what_is_missing() -> None:
    rows = [row("weak", 90.0), row("strong", 99.0), row("strong", 95.0, way=20), row("broken", 0.0, diverged_episodes=7)]
    del rows[-1]["ci95"]
    lines = tabulate(rows).splitlines()
    assert lines[0] == "| initializer | 5-way 1-shot | 20-way 1-shot |"
    assert lines[2:] == [
        "| `strong` | 99.00 ± 0.50 | 95.00 ± 0.50 |",
        "| `weak` | 90.00 ± 0.50 | - |",
        "| `broken` | diverged in 7 | - |",
    ]


def test_three_files_are_written(tmp_path: Path) -> None:
    rows = [row("weak", 90.0), row("strong", 99.0)]
    path = write_comparison(tmp_path / "results", "omniglot", rows, "innerloop compare")
    report = json.loads(path.read_text())
    assert report["rows"] == rows == read_rows(tmp_path / "results", "omniglot")
    assert report["command"] == "innerloop compare"
    assert (tmp_path / "results" / "omniglot.md").read_text().startswith("| initializer |")
    assert (tmp_path / "results" / "omniglot.png").read_bytes().startswith(b"\x89PNG")


def test_a_comparison_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptions, match="no initializer reads what omniglot gives"):
        write_comparison(tmp_path, "omniglot", [], "innerloop compare")


def test_a_file_that_is_no_comparison_is_not_overwritten(tmp_path: Path) -> None:
    assert read_rows(tmp_path, "omniglot") == []
    (tmp_path / "omniglot.json").write_text("[]")
    with pytest.raises(CheckpointCorrupt, match="is no comparison of this program"):
        read_rows(tmp_path, "omniglot")
