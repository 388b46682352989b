"""The two commands, as make itself reads them; and that the pins say what the project promises."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest

from tests.architecture.documents import ROOT, read_blocks


def dry_run(*arguments: str) -> str:
    """What make would run."""
    return subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _targets_of_the_readme() -> list[str]:
    texts = [block.text for block in read_blocks() if block.how == "make"]
    return [line.split()[1] for text in texts for line in text.splitlines() if line.startswith("make ")]


@pytest.mark.parametrize("target", [*_targets_of_the_readme(), "check", "peers", "build", "clean", "help"])
def test_a_target_of_the_readme_is_one_make_can_run(target: str) -> None:
    assert dry_run("--always-make", target).strip()


def test_check_runs_lint_format_types_and_arrows() -> None:
    commands = dry_run("check")
    assert all(tool in commands for tool in ("ruff check", "ruff format --check", "mypy", "lint-imports"))


def test_demo_passes_its_switches_on() -> None:
    assert "innerloop demo --once --json" in dry_run("demo", "ONCE=1", "JSON=1")
    assert "--once" not in dry_run("demo")
    assert "--once" not in dry_run("demo", "ONCE=0")


def test_a_fresh_clone_is_installed_with_the_pins_before_anything_runs() -> None:
    commands = dry_run("--always-make", "test").splitlines()
    install = next(index for index, line in enumerate(commands) if "pip install" in line)
    assert "-c constraints.txt -e '.[dev]'" in commands[install]
    assert "-m venv .venv" in "\n".join(commands[:install])
    assert "pytest" in "\n".join(commands[install:])


def _pins() -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return dict(line.split("==", 1) for line in lines if line and not line.startswith("#"))


def test_constraints_are_exact_and_torch_has_no_local_version() -> None:
    assert _pins()["torch"] == "2.13.0"
    assert [pin for pin in _pins().values() if not re.fullmatch(r"[0-9][0-9A-Za-z.]*", pin)] == []


def test_everything_the_project_asks_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[<>=;, ]", requirement)[0].lower().replace("_", "-") for requirement in asked}
    pinned = {name.lower().replace("_", "-") for name in _pins()}
    assert names - pinned == set()


def test_the_version_of_the_command_is_that_of_the_distribution() -> None:
    outcome = subprocess.run([sys.executable, "-m", "app.cli", "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == f"innerloop {version('innerloop')}"
