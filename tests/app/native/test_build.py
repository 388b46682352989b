"""The C of the doors is built by what builds that of the models, and none is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.native import FOLDER, JSON_NUMBERS, build, json_numbers
from models.native.build import find_compiler


@pytest.mark.skipif(find_compiler() is None, reason="SKIPPED-COMPILER: no C compiler")
def test_building_makes_the_library_that_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BUILT", tmp_path)
    assert [path.name for path in build.build_libraries()] == [JSON_NUMBERS.name]
    assert [path.name for path in tmp_path.iterdir()] == [JSON_NUMBERS.name]


def test_without_a_compiler_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "BUILT", tmp_path)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build.build_libraries() == []
    assert not list(tmp_path.iterdir())


def test_both_languages_agree_on_the_sizes() -> None:
    source = (FOLDER / "json_numbers.c").read_text()
    for name in ("MAX_DIMS", "MAX_BLOCKS", "LARGEST_POWER"):
        assert f"#define {name} {getattr(json_numbers, name)}\n" in source
    assert f"#define LEAST_POWER ({json_numbers.LEAST_POWER})\n" in source
