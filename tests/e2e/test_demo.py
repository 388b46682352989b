"""The demo as `make demo ONCE=1 JSON=1` runs it, with fewer draws and only the initializers that it uses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app import demo
from app.composition import bundled_initializers_dir
from tests.architecture.documents import ROOT
from tests.servers import free_port


@pytest.mark.timeout(300)
def test_the_demo_learns_digits_and_ends_with_one_json_object(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app.cli", "demo", "--once", "--json", "--draws", "2", "--port", str(free_port())]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("INNERLOOP_")} | {"INNERLOOP_TORCH_THREADS": "1"}
    for name in demo.INITIALIZERS:  # the service starts sooner than with all that are bundled, as test_readme.py starts it
        shutil.copytree(bundled_initializers_dir() / name, tmp_path / "initializers" / name)
    environment["INNERLOOP_INITIALIZERS_DIR"] = str(tmp_path / "initializers")
    outcome = subprocess.run([*command, "--home-dir", str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    rows = json.loads(outcome.stdout.splitlines()[-1])["rows"]
    assert [(row["initializer"], row["way"], row["shot"]) for row in rows] == [(name, 5, k) for name in demo.INITIALIZERS for k in (1, 5)]
    for row in rows:
        assert set(row) == {"initializer", "way", "shot", "accuracy", "ci95", "adapt_ms", "predict_ms"}
        assert row["accuracy"] > 40, "chance is 20 %"
        assert min(row["adapt_ms"], row["predict_ms"]) > 0


def test_no_digit_that_is_asked_for_was_shown() -> None:
    pictures, digits = demo.load_pictures()
    for shot in demo.SHOTS:
        drawn = demo.draw_problem(pictures, digits, shot, np.random.default_rng(shot))
        assert (len(drawn.support), len(drawn.queries)) == (5 * shot, demo.N_HELD_OUT)
        assert set(drawn.query_digits) <= set(drawn.support_digits)
        # The same picture may be in the set twice, drawn by two people; that must stay the rare exception that it is.
        shown = {picture.tobytes() for picture in drawn.support}
        assert sum(picture.tobytes() in shown for picture in drawn.queries) == 0


def test_a_digit_is_sent_as_bright_ink_with_an_empty_margin() -> None:
    picture = demo.enlarge(np.full((8, 8), 16.0))
    assert picture.shape == (28, 28)
    assert picture.dtype == np.uint8
    assert picture.max() == 255
    assert picture[:3].max() == 0
