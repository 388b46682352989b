"""The start of an HTTP process, as far as it comes before the first request."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvicorn

from app.admin import Admin
from app.serving import run_http_process
from app.settings import Settings


def test_a_start_that_ends_as_its_port_is_taken_makes_no_key_that_nobody_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_port_taken(config: uvicorn.Config) -> None:
        raise SystemExit(3)  # as uvicorn does, which leaves its socket to the garbage collector

    monkeypatch.setattr(uvicorn.Config, "bind_socket", find_port_taken)
    announced: list[str] = []
    settings = Settings(home_dir=tmp_path)
    with pytest.raises(SystemExit):
        run_http_process(settings, "all", announce=announced.append)
    assert announced == []
    assert asyncio.run(Admin(settings).list_keys()) == []
