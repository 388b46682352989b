"""What `pip install` brings: the code, and everything the code reads from its own folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from models.native.build import find_compiler
from tests.architecture.documents import ROOT

pytest.importorskip("hatchling", reason="hatchling comes with the dev extra")


PACKAGES = ("app", "models", "migrations")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is made from: building writes into it, and processes of other tests read this one."""
    copy = tmp_path_factory.mktemp("tree")
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "built"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as pip builds it, without its isolation and so without a download."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder), "."]
    environment = {**os.environ, **_hasty_compiler(folder)}
    subprocess.run(command, cwd=tree, check=True, capture_output=True, env=environment)
    return next(folder.glob("innerloop-*.whl"))


def _hasty_compiler(folder: Path) -> dict[str, str]:
    """`CC` for C that is packed and never run; the flags of an installation take 16 s, and whoever runs these tests has installed."""
    compiler = find_compiler()
    if compiler is None:
        return {}
    script = folder / "cc"
    script.write_text(f'#!/bin/sh\nexec "{compiler}" "$@" -O0\n')
    script.chmod(0o755)
    return {"CC": str(script)}


def _files_to_ship(tree: Path) -> set[str]:
    files = {path for name in PACKAGES for path in (tree / name).rglob("*") if path.is_file()}
    return {str(path.relative_to(tree)) for path in files if "__pycache__" not in path.parts and not path.name.startswith(".")}


def test_the_wheel_has_every_file_of_the_three_packages_and_no_test(wheel: Path, tree: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == _files_to_ship(tree)
    assert any(name.endswith(".toml") for name in names), "recipes are read at run time"


def test_the_wheel_carries_the_licence_and_the_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (licence,) = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "innerloop = app.cli:main" in archive.read(entry_points).decode()


def test_an_unpacked_wheel_runs_away_from_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = (
        "import sys; sys.path.insert(0, 'site')\n"
        "import app.cli, app.db.migrate, app.composition\n"
        "assert app.cli.__file__.startswith(sys.argv[1]), app.cli.__file__\n"
        "app.db.migrate.upgrade('sqlite+aiosqlite:///fresh.db')\n"
        "print(app.composition.bundled_initializers_dir())"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.strip().startswith(str(tmp_path / "site"))
