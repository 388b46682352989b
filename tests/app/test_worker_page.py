"""The page of a worker, over a real socket."""

from __future__ import annotations

import asyncio
import signal

import httpx
import pytest

from app import telemetry
from app.worker_page import listen, showing_page


async def test_a_worker_shows_what_it_counted_and_that_it_lives_until_it_ends() -> None:
    telemetry.observe_lanes("adapt", 3)
    listening = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    handlers = [signal.getsignal(sig) for sig in (signal.SIGTERM, signal.SIGINT)]
    async with httpx.AsyncClient(base_url=url) as client:
        async with showing_page(listening):
            assert "event loop lag" in {task.get_name() for task in asyncio.all_tasks()}
            page, alive = await client.get("/metrics"), await client.get("/livez")
            assert [signal.getsignal(sig) for sig in (signal.SIGTERM, signal.SIGINT)] == handlers, "they are the worker's"
        assert (page.status_code, page.headers["content-type"]) == (200, telemetry.CONTENT_TYPE)
        assert 'innerloop_lanes_per_batch_count{work="adapt"}' in page.text
        assert "innerloop_event_loop_lag_seconds_count" in page.text
        assert (alive.status_code, alive.json()) == (200, {"status": "alive", "checks": {}})
        with pytest.raises(httpx.ConnectError):
            await client.get("/livez")


async def test_a_page_ends_with_the_work_that_failed() -> None:
    listening = listen("127.0.0.1", 0)
    with pytest.raises(ValueError, match="a bug"):
        async with showing_page(listening):
            raise ValueError("a bug")
    assert listening.fileno() == -1
