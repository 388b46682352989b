"""An embedded service, which adapts what it accepts at once, is killed with -9 on the way: the next start finishes what it had accepted."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path

import pytest

from app.client import AsyncInnerLoop, NotReadyInTime, Retries, TaskInfo, Unreachable
from tests.e2e.initializers import NAME, drawings, write_tiny_initializer
from tests.e2e.processes import make_key, serving

N_TASKS = 60
LABELS = ["a", "b", "a", "b"]


@pytest.mark.timeout(180)
async def test_what_a_killed_service_had_accepted_is_ready_after_the_next_start(tmp_path: Path) -> None:
    write_tiny_initializer(tmp_path / "initializers", seed=1)
    settings = {"INNERLOOP_INITIALIZERS_DIR": str(tmp_path / "initializers"), "INNERLOOP_MAX_LANES": "2"}
    key = await make_key(tmp_path, settings=settings)
    accepted: set[str] = set()
    with serving(tmp_path, name="first", settings=settings) as first:
        # Once: what does not reach a dead service is not accepted, and trying it again would only take time.
        async with AsyncInnerLoop(first.url, key, timeout_s=60, retries=Retries(attempts=1)) as client:
            posting = asyncio.create_task(_post_all(client, accepted))
            while len(accepted) < N_TASKS // 4:  # noqa: ASYNC110  # what is waited for happens in another process
                await asyncio.sleep(0.001)
            first.kill()
            await posting
    with serving(tmp_path, name="second", settings=settings) as second:
        async with AsyncInnerLoop(second.url, key, timeout_s=60) as client:
            tasks = await _await_all_finished(client)
            assert Counter(task.status for task in tasks) == {"ready": len(tasks)}
            assert accepted <= {task.name for task in tasks}, second.tail()
            assert second.stop() == 0, second.tail()


async def _post_all(client: AsyncInnerLoop, accepted: set[str]) -> None:
    """Posts until the service is gone; the names of what it said yes to."""
    slots = asyncio.Semaphore(16)

    async def post(index: int) -> None:
        async with slots:
            with contextlib.suppress(Unreachable):
                with contextlib.suppress(NotReadyInTime):  # accepted, which is all that is wanted of a post
                    await client.adapt(drawings(4, index), LABELS, NAME, name=f"task {index}", wait_s=0)
                accepted.add(f"task {index}")

    await asyncio.gather(*(post(index) for index in range(N_TASKS)))


async def _await_all_finished(client: AsyncInnerLoop) -> list[TaskInfo]:
    async with asyncio.timeout(60):
        while True:
            tasks = await client.tasks()
            if all(task.is_finished for task in tasks):
                return list(tasks)
            await asyncio.sleep(0.1)
