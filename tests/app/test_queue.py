from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from docket import ExecutionState, Worker
from structlog.testing import capture_logs

from app.errors import Unavailable
from app.queue import ADAPT, DocketLines, DocketQueue
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


def say(lines: DocketLines, text: str, monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> list[Any]:
    """Which of these seconds, in which docket says so, have a line of ours."""
    with capture_logs() as told:
        for now_s in seconds:
            monkeypatch.setattr("app.queue.monotonic", lambda now_s=now_s: now_s)
            before = len(told)
            lines.emit(logging.makeLogRecord({"msg": text, "levelno": logging.WARNING}))
            if len(told) > before:
                told[-1]["at_s"] = now_s
    return told


def test_that_redis_is_away_is_told_at_once_and_then_less_and_less_often_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, away = DocketLines("redis://u:secret@h:6379/0?password=secret"), "Redis is unavailable, sleeping for 1 second..."
    told = say(lines, away, monkeypatch, [100 + half / 2 for half in range(260)])
    assert [line["at_s"] for line in told] == [100, 101, 103, 107, 115, 131, 161, 191, 221]
    assert [line["for_s"] for line in told] == [0, 1, 3, 7, 15, 31, 61, 91, 121]
    assert {(line["event"], line["url"]) for line in told} == {("waiting_for_redis", "redis://h:6379/0")}
    assert len(say(lines, away, monkeypatch, [300, 301])) == 2, "it was back for a while"


async def test_what_else_docket_warns_of_is_told_each_time() -> None:
    async with DocketQueue("", SETTINGS):
        with capture_logs() as told:
            for _ in range(2):
                logging.getLogger("docket.worker").warning("unknown task %r", "x")
    assert [(line["event"], line["said"]) for line in told] == [("docket", "unknown task 'x'")] * 2
