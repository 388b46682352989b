"""The shape of the tree: names that say something, files with one reason to change, the agreed top level."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
from pathlib import Path

import pytest

import models
from app import client
from tests.architecture.documents import ROOT

BANNED = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager"}
PACKAGES = ("app", "models", "migrations")
# No file is longer than the longest today; lower this when a file shrinks, never raise it without a reason in DECISIONS.md.
LONGEST_FILE = 296
TOP_LEVEL = {
    ".ci", ".dockerignore", ".gitignore", "CHANGELOG.md", "DECISIONS.md", "Dockerfile", "LICENSE", "Makefile", "README.md",
    "app", "benchmarks", "constraints.txt", "docker", "docs", "docker-compose.yml", "hatch_build.py",
    "migrations", "models", "pyproject.toml", "tests",
}  # fmt: skip


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [path for path in python_files(*PACKAGES, "tests") if path.stem.strip("_") in BANNED] == []


def test_no_file_grows_beyond_the_longest_one() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files(*PACKAGES)}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_the_top_level_is_the_agreed_one() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what is tracked cannot be told")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {name.partition("/")[0] for name in tracked} <= TOP_LEVEL


def test_only_settings_and_the_data_folder_read_the_environment() -> None:
    readers = {str(path.relative_to(ROOT)) for path in python_files(*PACKAGES) if _reads_environment(path)}
    assert readers <= {"models/episodes/location.py", "models/native/build.py"}, "app/settings.py reads it through pydantic"


def _reads_environment(path: Path) -> bool:
    tree = ast.parse(path.read_text())
    return any(isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"} for node in ast.walk(tree))


def test_every_module_opens_with_a_docstring() -> None:
    silent = [path for path in python_files(*PACKAGES) if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def _packages_with_a_surface() -> list[str]:
    found = [module.name for module in pkgutil.walk_packages(models.__path__, "models.") if module.ispkg]
    return ["app.client", *(name for name in found if hasattr(importlib.import_module(name), "__all__"))]


@pytest.mark.parametrize("name", _packages_with_a_surface())
def test_a_package_lists_every_public_name_once(name: str) -> None:
    package = importlib.import_module(name)
    listed = list(package.__all__)
    assert len(listed) == len(set(listed))
    assert [entry for entry in listed if not hasattr(package, entry)] == []


def test_every_error_of_the_client_is_public() -> None:
    from app.client import errors

    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__}
    assert defined - set(client.__all__) == set()
