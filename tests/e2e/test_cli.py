"""The command line and the processes it starts."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import httpx
import pytest

from app.cli import main
from app.serving import greeting
from tests.e2e.processes import Process, running, serving


@pytest.fixture
def settings(tiny_dir: Path, sqlite_url: str) -> dict[str, str]:
    return {"INNERLOOP_DATABASE_URL": sqlite_url, "INNERLOOP_INITIALIZERS_DIR": str(tiny_dir)}


def test_the_first_start_shows_a_key_that_works_stops_in_order_and_the_second_shows_none(tmp_path: Path, settings: dict[str, str]) -> None:
    with serving(tmp_path, settings=settings, name="first") as process:
        found = re.search(r"InnerLoop on (http://127\.0\.0\.1:\d+)/\?key=(il_\S+)", process.log.read_text())
        assert found, process.tail()
        assert found[1] == process.url
        assert httpx.get(f"{process.url}/v1/tasks", headers={"X-API-Key": found[2]}).status_code == 200
        entered = httpx.get(f"{process.url}/?key={found[2]}")
        assert (entered.status_code, entered.has_redirect_location) == (303, True)
        assert_stops_in_order(process)
    with serving(tmp_path, settings=settings, name="second") as process:
        assert "key" not in process.log.read_text()


def assert_stops_in_order(process: Process) -> None:
    """Its port is free again, and it says no error."""
    assert process.stop() == 0, process.tail()
    assert "Traceback" not in process.log.read_text()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{process.url}/livez")


def test_a_key_is_made_listed_and_ended(tmp_path: Path, settings: dict[str, str]) -> None:
    made = run(tmp_path, "keys", "create", "mine", "--scope", "user", "--scope", "admin", settings=settings)
    assert re.fullmatch(r"il_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", made.strip())
    listed = run(tmp_path, "keys", "list", settings=settings)
    (key_id,) = re.findall(r"key_\w+", listed)
    assert "mine" in listed
    assert "admin user" in listed
    assert "revoked" in run(tmp_path, "keys", "revoke", key_id, settings=settings)


def run(folder: Path, *args: str, settings: dict[str, str], status: int = 0) -> str:
    """The output of a command that ends by itself."""
    with running(folder, "command", *args, settings={**settings, "COLUMNS": "200"}) as process:
        assert process.popen.wait(60) == status, process.tail()
        return process.log.read_text()


@pytest.mark.parametrize(
    ("args", "status", "expected"),
    [
        (("keys", "create", "x", "--scope", "root"), 1, "expected a scope of user, admin"),
        (("serve", "--role", "api"), 1, "needs Redis in --redis-url"),
        (("worker", "--redis-url", "redis://127.0.0.1:1/0"), 1, "needs PostgreSQL"),
        (("serve", "--device", "abacus"), 2, "INNERLOOP_DEVICE"),
        (("serve", "--port", "99999"), 2, "INNERLOOP_PORT"),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path: Path, settings: dict[str, str], args: tuple[str, ...], status: int, expected: str) -> None:
    said = run(tmp_path, *args, settings=settings, status=status)
    assert expected in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("keys", "revoke", "key_nobody"), "key_not_found"),
        (("initializers", "show", "nobody"), "initializer_not_found"),
        (("keys", "list", "--database-url", "postgresql://127.0.0.1:1/none"), "database_unavailable"),
        (("keys", "create", " "), "invalid_body"),
    ],
)
def test_so_is_one_that_the_database_finds(
    settings: dict[str, str],
    args: tuple[str, ...],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the program's entry point in this process: it ends as the first of those above does, whose process is a real one."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["innerloop", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"{expected}: ")
    assert said.out == ""


def test_a_url_is_shown_that_a_browser_can_open() -> None:
    assert greeting("0.0.0.0", 80, None) == ["InnerLoop on http://127.0.0.1:80"]
    assert greeting("::1", 80, "il_x")[-1] == "InnerLoop on http://[::1]:80/?key=il_x"
