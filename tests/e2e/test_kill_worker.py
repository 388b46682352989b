"""A worker is killed with -9 in the middle of 200 adaptations: every one of them ends ready, and none is there twice."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from app.client import AsyncInnerLoop, NotReadyInTime, TaskInfo
from tests.e2e.initializers import NAME, drawings
from tests.e2e.processes import Process, make_key, running, serving
from tests.servers import free_port

N_TASKS = 200
LABELS = ["a", "b", "a", "b"]


@pytest.fixture
def settings(tiny_dir: Path, empty_postgres_url: str, private_redis_url: str) -> dict[str, str]:
    """PostgreSQL and Redis; a dead worker's jobs return soon; small batches and few jobs at once, so that a kill finds work to spoil."""
    return {
        "INNERLOOP_DATABASE_URL": empty_postgres_url,
        "INNERLOOP_REDIS_URL": private_redis_url,
        "INNERLOOP_INITIALIZERS_DIR": str(tiny_dir),
        "INNERLOOP_REDELIVERY_TIMEOUT_S": "2",
        "INNERLOOP_SWEEP_INTERVAL_S": "2",
        "INNERLOOP_SWEEP_AFTER_S": "3",
        "INNERLOOP_WORKER_CONCURRENCY": "8",
        "INNERLOOP_MAX_LANES": "4",
    }


@pytest.mark.timeout(300)
async def test_no_adaptation_is_lost_or_doubled_when_a_worker_is_killed(tmp_path: Path, settings: dict[str, str]) -> None:
    key = await make_key(tmp_path, settings=settings)
    with running(tmp_path, "first", "worker", settings=settings) as first, serving(tmp_path, "--role", "api", settings=settings) as api:
        async with AsyncInnerLoop(api.url, key, timeout_s=60) as client:
            posting = asyncio.create_task(_post_all(client))
            await _kill_midway(client, first)
            page_at = free_port()
            with running(tmp_path, "second", "worker", "--metrics-port", str(page_at), settings=settings) as second:
                await posting
                tasks = await _await_all_finished(client, second)
                assert Counter(task.status for task in tasks) == {"ready": N_TASKS}
                assert sorted(task.name or "" for task in tasks) == [f"task {index:03}" for index in range(N_TASKS)]
                assert len({task.id for task in tasks}) == N_TASKS
                await _check_predicted_once(client, tasks)
                await _check_counted(f"http://127.0.0.1:{page_at}", second)
                assert second.stop() == 0, second.tail()
            assert api.stop() == 0, api.tail()


async def _post_all(client: AsyncInnerLoop) -> None:
    slots = asyncio.Semaphore(16)

    async def post(index: int) -> None:
        async with slots:
            with contextlib.suppress(NotReadyInTime):  # accepted, which is all that is wanted of a post
                support, query = drawings(4, index), drawings(3, 10_000 + index)
                await client.adapt(support, LABELS, NAME, name=f"task {index:03}", query=query, wait_s=0)

    await asyncio.gather(*(post(index) for index in range(N_TASKS)))


async def _kill_midway(client: AsyncInnerLoop, worker: Process) -> None:
    """Kills it when it has finished some of the tasks and is in the middle of others; it is frozen for the look that decides this."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        worker.popen.send_signal(signal.SIGSTOP)
        statuses = Counter(task.status for task in await client.tasks())
        if statuses["ready"] >= N_TASKS // 10 and statuses["adapting"]:
            worker.kill()
            return
        worker.popen.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.03)
    raise AssertionError(f"the first worker was never found in the middle of its work: {statuses}\n{worker.tail()}")


async def _await_all_finished(client: AsyncInnerLoop, worker: Process) -> list[TaskInfo]:
    deadline = time.monotonic() + 90
    while True:
        tasks = await client.tasks()
        if all(task.is_finished for task in tasks):
            return tasks
        assert time.monotonic() < deadline, f"{Counter(task.status for task in tasks)}\n{worker.tail()}"
        await asyncio.sleep(0.2)


async def _check_predicted_once(client: AsyncInnerLoop, tasks: list[TaskInfo]) -> None:
    """The query set that came with each task was answered exactly once, whole."""

    async def check(task: TaskInfo) -> None:
        kept = await (await client.task(task.id)).predictions()
        assert [(answers.source, len(answers)) for answers in kept] == [("query", 3)], task.id

    await asyncio.gather(*map(check, tasks))


async def _check_counted(url: str, worker: Process) -> None:
    """The worker's page has what it did itself, and what docket counts of it, and is announced."""
    async with httpx.AsyncClient(base_url=url) as nobody:
        page = (await nobody.get("/metrics")).text
        assert (await nobody.get("/livez")).is_success
    ready = re.search(r'^innerloop_adaptations_total\{outcome="ready"\} (\S+)$', page, re.MULTILINE)
    lanes = re.search(r'^innerloop_lanes_per_batch_sum\{work="adapt"\} (\S+)$', page, re.MULTILINE)
    assert ready, page
    assert lanes, page
    assert 0 < float(ready[1]) <= float(lanes[1])
    assert "docket_tasks_succeeded_total" in page
    assert f"Metrics on {url}/metrics" in worker.log.read_text()
