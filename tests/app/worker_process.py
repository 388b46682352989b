"""A worker process for tests to kill: runs jobs that write what they did to Redis. Arguments: Redis URL, namespace."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass

from redis.asyncio import Redis

from app.queue import DocketQueue
from app.services.adaptations import AdaptationService
from app.settings import Settings
from app.worker import run_worker

JOB_S = 0.05


def make_settings() -> Settings:
    """Short periods, so that a test need not wait long for a dead worker's jobs."""
    return Settings(worker_concurrency=32, worker_check_interval_s=0.05, redelivery_timeout_s=1.0, sweep_interval_s=3600, drain_timeout_s=5)


class RedisLedger(AdaptationService):
    """A service whose jobs take a while and leave a line in Redis when they start and when they end."""

    def __init__(self, redis: Redis, namespace: str) -> None:
        self._redis, self._namespace = redis, namespace

    async def run(self, task_id: str, revision: int) -> None:
        await self._redis.hincrby(f"{self._namespace}:started", task_id, 1)
        await asyncio.sleep(JOB_S)
        await self._redis.hincrby(f"{self._namespace}:finished", task_id, 1)

    async def sweep(self, *, older_than_s: float | None = None) -> int:
        return 0


@dataclass(frozen=True)
class WorkerParts:
    """What `run_worker` asks of the services."""

    adaptations: AdaptationService
    queue: DocketQueue


async def main(url: str, namespace: str) -> None:
    """Works the queue until SIGTERM."""
    stop, settings = asyncio.Event(), make_settings()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Redis.from_url(url) as redis, DocketQueue(url, settings, namespace) as queue:
        await run_worker(WorkerParts(RedisLedger(redis, namespace), queue), settings, stop)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
