from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import catalogue


def test_the_benchmarks_run_in_the_peers_environment_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    assert catalogue.find_peer_python() is None
    python = tmp_path / ".venv-peers" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert catalogue.find_peer_python() == python


def test_a_benchmark_that_runs_there_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".venv-peers" / "bin").mkdir(parents=True)
    (tmp_path / ".venv-peers" / "bin" / "python").touch()
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv-peers"))
    assert catalogue.find_peer_python() is None


def test_a_known_name_is_accepted_and_an_unknown_one_is_not() -> None:
    catalogue.check_name("adapt")
    with pytest.raises(catalogue.Refused):
        catalogue.check_name("harness")
