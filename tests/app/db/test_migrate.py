from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from app.db import migrate
from app.db.tables import metadata
from app.errors import Unavailable


def test_tables_in_code_and_in_the_migrated_database_are_the_same(database_url: str) -> None:
    migrate.check(database_url)  # raises when they differ


def test_downgrading_to_base_leaves_no_table_of_ours_and_upgrading_brings_all_back(database_url: str) -> None:
    migrate.downgrade(database_url)
    assert _tables(database_url) & set(metadata.tables) == set()
    migrate.upgrade(database_url)
    assert _tables(database_url) >= set(metadata.tables)


def test_a_folder_that_cannot_be_made_is_told_as_a_database_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="none can be made"):
        migrate.upgrade(f"sqlite+aiosqlite:///{tmp_path}/file/new/innerloop.db")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_start_together_on_an_empty_database_do_not_hinder_each_other(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/new/innerloop.db"
    if kind == "postgresql":
        url = request.getfixturevalue("empty_postgres_url")
        migrate.downgrade(url)
    program = "import sys; from app.db.migrate import upgrade; upgrade(sys.argv[1])"
    started = [subprocess.Popen([sys.executable, "-c", program, url]) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert _tables(url) >= set(metadata.tables)


def test_a_database_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable) as caught:
        migrate.upgrade("postgresql+psycopg://postgres@127.0.0.1:1/nothing")
    assert caught.value.code == "database_unavailable"


def _tables(url: str) -> set[str]:
    engine = create_engine(migrate.synchronous(url))
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()
