"""The start of a process, as far as it comes before the first request or job."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import uvicorn

from app.admin import Admin
from app.serving import run_http_process, run_worker_process
from app.settings import Settings
from app.worker_page import listen


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


def test_a_worker_whose_metrics_port_is_taken_says_so_before_it_starts_anything(tmp_path: Path) -> None:
    announced: list[str] = []
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        settings = Settings(home_dir=tmp_path, metrics_port=port)
        with pytest.raises(SystemExit, match=rf"^INNERLOOP_METRICS_PORT .*already in use.*{port}") as ended:
            run_worker_process(settings, announce=announced.append)
    assert "\n" not in str(ended.value)
    assert announced == []
    assert list(tmp_path.iterdir()) == []
