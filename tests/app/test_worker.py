from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import redis
from redis.asyncio import Redis

from app.errors import Unavailable
from app.queue import DocketQueue
from app.services.adaptations import AdaptationService
from app.settings import Settings
from app.worker import run_worker
from tests.app.worker_process import RedisLedger, WorkerParts, make_settings
from tests.servers import RedisServer


class Ledger(AdaptationService):
    """A service that counts starts, ends, cancellations and sweeps; a job takes `job_s`, and fails as `faults` say."""

    def __init__(self, job_s: float = 0.0) -> None:
        self.job_s = job_s
        self.started: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.given_back: Counter[str] = Counter()
        self.faults: dict[str, list[Exception]] = {}
        self.sweeps: list[float | None] = []
        self.in_flight = self.most_in_flight = 0

    async def run(self, task_id: str, revision: int) -> None:
        self.started[task_id] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.faults.get(task_id):
                raise self.faults[task_id].pop(0)
            await asyncio.sleep(self.job_s)
            self.finished[task_id] += 1
        except asyncio.CancelledError:
            self.given_back[task_id] += 1
            raise
        finally:
            self.in_flight -= 1

    async def sweep(self, *, older_than_s: float | None = None) -> int:
        self.sweeps.append(older_than_s)
        return 0


@pytest.fixture(params=["memory", "redis"])
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[DocketQueue]:
    if request.param == "memory":
        opened = DocketQueue("", make_settings())
    else:
        opened = DocketQueue(request.getfixturevalue("redis_url"), make_settings(), request.getfixturevalue("redis_namespace"))
    async with opened:
        yield opened


@asynccontextmanager
async def working(ledger: AdaptationService, queue: DocketQueue, settings: Settings) -> AsyncIterator[asyncio.Event]:
    """A worker that runs inside the block, and is stopped at its end unless it was before."""
    stop = asyncio.Event()
    worker = asyncio.create_task(run_worker(WorkerParts(ledger, queue), settings, stop))
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(worker, 15)


async def until(is_so: Callable[[], bool], within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while not is_so():  # noqa: ASYNC110  # what is waited for happens in docket, or in another process
            await asyncio.sleep(0.01)


def read_tasks(url: str, namespace: str, field: str) -> set[str]:
    """The tasks whose jobs have `started` or `finished`, as a worker process left them in Redis."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return {str(name) for name in client.hkeys(f"{namespace}:{field}")}


async def enqueue(queue: DocketQueue, count: int) -> list[str]:
    names = [f"task_{n}" for n in range(count)]
    for name in names:
        await queue.enqueue_adaptation(name, 1)
    return names


async def test_two_hundred_jobs_all_run_once_and_many_at_a_time(queue: DocketQueue) -> None:
    ledger = Ledger(job_s=0.02)
    names = await enqueue(queue, 200)
    async with working(ledger, queue, make_settings()):
        await until(lambda: sum(ledger.finished.values()) >= 200)
        await asyncio.sleep(0.1)
    assert ledger.finished == Counter(names)
    assert 16 <= ledger.most_in_flight <= 32


async def test_an_outage_is_waited_out(queue: DocketQueue) -> None:
    ledger = Ledger()
    ledger.faults["task_0"] = [Unavailable("the database is away")]
    await enqueue(queue, 2)
    async with working(ledger, queue, make_settings()):
        await until(lambda: ledger.finished["task_0"] == 1)
    assert ledger.started["task_0"] == 2
    assert ledger.finished["task_1"] == 1


async def test_a_job_that_crashes_is_tried_again(queue: DocketQueue) -> None:
    ledger = Ledger()
    ledger.faults["task_0"] = [ValueError("a bug")]
    await enqueue(queue, 1)
    async with working(ledger, queue, make_settings()):
        await until(lambda: ledger.finished["task_0"] == 1)


async def test_the_sweeper_runs_at_the_start_and_then_again_and_again(queue: DocketQueue) -> None:
    ledger = Ledger()
    settings = make_settings().model_copy(update={"sweep_interval_s": 0.1})
    async with working(ledger, queue, settings):
        await until(lambda: len(ledger.sweeps) >= 4)
    assert ledger.sweeps[:2] == ([0, None] if queue.is_embedded else [None, None])


async def test_a_stopping_worker_finishes_what_runs_and_leaves_the_rest(queue: DocketQueue) -> None:
    ledger = Ledger(job_s=0.3)
    names = await enqueue(queue, 50)
    async with working(ledger, queue, make_settings()) as stop:
        await until(lambda: ledger.in_flight > 0)
        stop.set()
    assert ledger.in_flight == 0
    assert not ledger.given_back
    assert ledger.finished == ledger.started
    assert 0 < sum(ledger.finished.values()) < 50
    async with working(ledger, queue, make_settings()):
        await until(lambda: sum(ledger.finished.values()) >= 50)
    assert ledger.finished == Counter(names)


async def test_what_does_not_finish_in_time_is_given_back_and_another_worker_has_it_at_once(queue: DocketQueue) -> None:
    slow, quick = Ledger(job_s=60), Ledger()
    settings = make_settings().model_copy(update={"drain_timeout_s": 0.1, "redelivery_timeout_s": 30.0})
    names = await enqueue(queue, 20)
    async with working(slow, queue, settings) as stop:
        await until(lambda: slow.in_flight == 20)
        stopped = time.monotonic()
        stop.set()
    assert time.monotonic() - stopped < 5
    assert slow.given_back == Counter(names)
    async with working(quick, queue, settings):
        await until(lambda: sum(quick.finished.values()) >= 20, within_s=5)  # far less than the redelivery timeout
    assert quick.finished == Counter(names)


@contextmanager
def worker_process(url: str, namespace: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "tests.app.worker_process", url, namespace])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_the_jobs_of_a_worker_killed_with_9_end_on_another(redis_url: str, redis_namespace: str) -> None:
    def count_finished() -> int:
        return len(read_tasks(redis_url, redis_namespace, "finished"))

    async with DocketQueue(redis_url, make_settings(), redis_namespace) as queue, Redis.from_url(redis_url) as client:
        names = await enqueue(queue, 200)
        with worker_process(redis_url, redis_namespace) as process:
            await until(lambda: count_finished() >= 40, within_s=20)
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait, 10)
        assert count_finished() < 200, "the worker was killed too late for this test to say anything"
        async with working(RedisLedger(client, redis_namespace), queue, make_settings()):
            await until(lambda: count_finished() >= 200, within_s=20)
        assert read_tasks(redis_url, redis_namespace, "finished") == set(names)


async def test_a_process_ends_cleanly_on_sigterm(redis_url: str, redis_namespace: str) -> None:
    async with DocketQueue(redis_url, make_settings(), redis_namespace) as queue:
        names = await enqueue(queue, 5)
    with worker_process(redis_url, redis_namespace) as process:
        await until(lambda: len(read_tasks(redis_url, redis_namespace, "started")) == 5, within_s=20)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0
    assert read_tasks(redis_url, redis_namespace, "finished") == set(names)


async def test_a_worker_outlives_a_redis_that_went_away(private_redis: RedisServer) -> None:
    ledger = Ledger()
    async with DocketQueue(private_redis.url, make_settings()) as queue, working(ledger, queue, make_settings()):
        await queue.enqueue_adaptation("before", 1)
        await until(lambda: ledger.finished["before"] == 1)
        private_redis.kill()
        await asyncio.sleep(0.2)
        private_redis.start()
        await queue.enqueue_adaptation("after", 1)
        await until(lambda: ledger.finished["after"] == 1)
