from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from docket import ExecutionState, Worker

from app.errors import Unavailable
from app.queue import ADAPT, DocketQueue
from app.settings import Settings
from tests.servers import RedisServer

SETTINGS = Settings(worker_concurrency=20)


@pytest.fixture(params=["memory", "redis"])
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[DocketQueue]:
    """A queue of this test's own, in this process and in a real Redis."""
    if request.param == "memory":
        opened = DocketQueue("", SETTINGS)
    else:
        opened = DocketQueue(request.getfixturevalue("redis_url"), SETTINGS, request.getfixturevalue("redis_namespace"))
    async with opened:
        yield opened


async def run_jobs(queue: DocketQueue) -> list[tuple[str, int]]:
    """Works the queue until it is empty; the jobs that ran."""
    ran: list[tuple[str, int]] = []

    async def adapt(task_id: str, revision: int) -> None:
        ran.append((task_id, revision))

    queue.docket.register(adapt)
    async with Worker(queue.docket, minimum_check_interval=timedelta(milliseconds=20)) as worker:
        await worker.run_until_finished()
    return ran


async def test_a_job_carries_its_ids_and_nothing_else(queue: DocketQueue) -> None:
    await queue.enqueue_adaptation("task_a", 3)
    assert await run_jobs(queue) == [("task_a", 3)]


async def test_a_job_that_waits_is_not_enqueued_twice(queue: DocketQueue) -> None:
    await asyncio.gather(*(queue.enqueue_adaptation("task_a", 1) for _ in range(5)), queue.enqueue_adaptation("task_a", 2))
    assert sorted(await run_jobs(queue)) == [("task_a", 1), ("task_a", 2)]


async def test_a_job_that_has_ended_can_be_enqueued_again(queue: DocketQueue) -> None:
    for _ in range(3):
        await queue.enqueue_adaptation("task_a", 1)
        assert await run_jobs(queue) == [("task_a", 1)]


async def test_a_job_that_failed_can_be_enqueued_again(queue: DocketQueue) -> None:
    async def adapt(task_id: str, revision: int) -> None:
        raise ValueError("not today")

    await queue.enqueue_adaptation("task_a", 1)
    queue.docket.register(adapt)
    async with Worker(queue.docket, minimum_check_interval=timedelta(milliseconds=20)) as worker:
        await worker.run_until_finished()
    execution = await queue.docket.get_execution(f"{ADAPT}:task_a:1")
    assert execution is not None
    assert execution.state == ExecutionState.FAILED
    await queue.enqueue_adaptation("task_a", 1)
    assert await run_jobs(queue) == [("task_a", 1)]


async def test_a_job_that_runs_is_not_enqueued_beside_itself(queue: DocketQueue) -> None:
    started, may_end, count = asyncio.Event(), asyncio.Event(), 0

    async def adapt(task_id: str, revision: int) -> None:
        nonlocal count
        count += 1
        started.set()
        await may_end.wait()

    queue.docket.register(adapt)
    await queue.enqueue_adaptation("task_a", 1)
    async with Worker(queue.docket, minimum_check_interval=timedelta(milliseconds=20)) as worker:
        running = asyncio.create_task(worker.run_until_finished())
        await asyncio.wait_for(started.wait(), 5)
        await queue.enqueue_adaptation("task_a", 1)
        may_end.set()
        await asyncio.wait_for(running, 5)
    assert count == 1


async def test_the_queue_answers_a_ping(queue: DocketQueue) -> None:
    await queue.ping()


async def test_two_embedded_queues_share_nothing() -> None:
    async with DocketQueue("", SETTINGS) as one, DocketQueue("", SETTINGS) as two:
        assert one.is_embedded
        await one.enqueue_adaptation("task_a", 1)
        assert await run_jobs(two) == []
        assert await run_jobs(one) == [("task_a", 1)]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:6379/0", "redis://h:6379/0?max_connections=72"),
        ("rediss://u:p@h/1?ssl_cert_reqs=none", "rediss://u:p@h/1?ssl_cert_reqs=none&max_connections=72"),
        ("redis://h/0?max_connections=5", "redis://h/0?max_connections=5"),
        ("memory://mine", "memory://mine"),
    ],
)
def test_the_pool_has_room_for_every_job_unless_told_otherwise(url: str, expected: str) -> None:
    assert DocketQueue(url, SETTINGS).docket.url == expected


async def test_a_redis_that_is_away_is_told_and_forgotten_when_it_is_back(private_redis: RedisServer) -> None:
    async with DocketQueue(private_redis.url, SETTINGS) as queue:
        await queue.enqueue_adaptation("task_a", 1)
        private_redis.kill()
        with pytest.raises(Unavailable) as fault:
            await queue.ping()
        assert (fault.value.code, fault.value.status, fault.value.retry_after_s) == ("redis_unavailable", 503, 2)
        with pytest.raises(Unavailable):
            await queue.enqueue_adaptation("task_b", 1)
        private_redis.start()
        await queue.ping()
        await queue.enqueue_adaptation("task_c", 1)
        assert await run_jobs(queue) == [("task_c", 1)]


async def test_a_process_starts_while_redis_is_away(private_redis: RedisServer) -> None:
    private_redis.kill()
    async with DocketQueue(private_redis.url, SETTINGS) as queue:
        with pytest.raises(Unavailable):
            await queue.ping()
        private_redis.start()
        await queue.ping()
