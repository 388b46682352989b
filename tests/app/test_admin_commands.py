"""`innerloop migrate`, `keys` and `initializers` on a database of their own."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from app import admin_commands
from app.db import initializers
from app.db.session import Database
from app.errors import NotFound

CARD: dict[str, Any] = {
    "learner": {"kind": "classification"},
    "input": {"kind": "image", "shape": [1, 28, 28]},
    "limits": {"min_way": 2, "max_way": 20, "max_support": 400, "max_steps": 50},
    "default_steps": 5,
    "sha256": "0" * 64,
}


@pytest.fixture
def cli() -> typer.Typer:
    cli = typer.Typer()
    admin_commands.register(cli)
    return cli


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("INNERLOOP_DATABASE_URL", sqlite_url)


@pytest.fixture
async def stored(sqlite_url: str) -> None:
    """`drawings`, version 1, in the database."""
    database = Database(sqlite_url)
    async with database.write() as session:
        ref = await initializers.store_next(session, "drawings", "0" * 64, CARD, b"", datetime.now(UTC))
        await initializers.swap_pointer(session, ref)
    await database.close()


def run(cli: typer.Typer, *arguments: str) -> str:
    """What a command prints; every fault is raised."""
    return CliRunner().invoke(cli, arguments, catch_exceptions=False).stdout


def test_migrate_makes_the_database_of_a_folder(cli: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INNERLOOP_DATABASE_URL")
    assert "newest schema" in run(cli, "migrate", "--home-dir", str(tmp_path / "home"))
    assert list((tmp_path / "home").glob("*.db"))
    assert "key_" not in run(cli, "keys", "list", "--home-dir", str(tmp_path / "home"))


def test_a_key_without_a_scope_is_a_users_and_says_when_it_was_ended(cli: typer.Typer) -> None:
    assert run(cli, "keys", "create", "mine").startswith("il_")
    (listed,) = [line.split("│")[1:-1] for line in run(cli, "keys", "list").splitlines() if "mine" in line]
    key_id, _, name, scopes, _, revoked = (cell.strip() for cell in listed)
    assert (name, scopes, revoked) == ("mine", "user", "")
    assert run(cli, "keys", "revoke", key_id) == f"{key_id} is revoked\n"
    assert f"{datetime.now(UTC):%Y-}" in next(line for line in run(cli, "keys", "list").splitlines() if "mine" in line).split("│")[-2]


@pytest.mark.usefixtures("stored")
def test_the_current_initializers_are_listed_with_their_limits(cli: typer.Typer) -> None:
    (listed,) = [line for line in run(cli, "initializers", "list").splitlines() if "drawings" in line]
    assert [cell.strip() for cell in listed.split("│")[1:-1]] == ["drawings", "1", "classification", "1x28x28", "20", "400", "5"]


@pytest.mark.usefixtures("stored")
def test_an_initializer_is_shown_as_its_card(cli: typer.Typer) -> None:
    assert json.loads(run(cli, "initializers", "show", "drawings")) == {"name": "drawings", "version": 1, **CARD}


def test_an_initializer_that_is_not_there_is_not_found(cli: typer.Typer) -> None:
    with pytest.raises(NotFound, match="there is no initializer 'nobody'"):
        run(cli, "initializers", "show", "nobody")
