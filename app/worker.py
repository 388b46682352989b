"""The queue process: takes jobs, runs many at once so that the engine can join them, and gives back what it cannot finish."""

from __future__ import annotations

import asyncio
import os
import socket
from datetime import timedelta
from typing import Protocol
from uuid import uuid4

import structlog
from docket import Docket, Worker

from app.errors import Unavailable
from app.jobs import RunningJobs, make_jobs
from app.queue import DocketQueue
from app.services.adaptations import AdaptationService
from app.settings import Settings

log = structlog.get_logger(__name__)

# docket waits this long after losing Redis before it tries again; its default of 5 s is most of what an outage costs.
RECONNECTION_DELAY = timedelta(seconds=1)

# Giving a job back is one write to SQL and one to the queue; a process that was told to stop waits no longer than this for them.
GIVE_BACK_TIMEOUT_S = 5.0


class WorkerServices(Protocol):
    """What a worker needs of `app.composition.Services`."""

    @property
    def adaptations(self) -> AdaptationService: ...

    @property
    def queue(self) -> DocketQueue: ...


async def run_worker(services: WorkerServices, settings: Settings, stop: asyncio.Event) -> None:
    """Works the queue until `stop` is set; then takes no more jobs, and returns when those in flight have ended or are given back.

    The worker outlives every outage of Redis and of the database. Any number of workers may share one queue.
    """
    jobs = make_jobs(services.adaptations, settings)
    docket = services.queue.docket
    for body in jobs.bodies:
        docket.register(body)
    if services.queue.is_embedded:
        await _enqueue_orphans(services)
    async with _make_worker(docket, settings) as worker:
        running = asyncio.create_task(worker.run_forever(), name="worker - docket")
        await _wait_for_either(running, stop)
        if running.done():
            return running.result()
        await _drain(running, jobs.running, settings)


async def _enqueue_orphans(services: WorkerServices) -> None:
    """Every unfinished row of the database lost its job when the process that had the queue in memory ended."""
    try:
        count = await services.adaptations.sweep(older_than_s=0)
    except Unavailable as fault:
        log.warning("orphans_not_enqueued", detail=fault.detail)  # the sweeper comes back to them
        return
    if count:
        log.info("orphans_enqueued", jobs=count)


def _make_worker(docket: Docket, settings: Settings) -> Worker:
    return Worker(
        docket,
        # A name of its own for every worker: two in one process, or in two containers of equal host name, must not share messages.
        name=f"{socket.gethostname()}#{os.getpid()}#{uuid4().hex[:6]}",
        concurrency=settings.worker_concurrency,
        minimum_check_interval=timedelta(seconds=settings.worker_check_interval_s),
        redelivery_timeout=timedelta(seconds=settings.redelivery_timeout_s),
        reconnection_delay=RECONNECTION_DELAY,
    )


async def _wait_for_either(running: asyncio.Task[None], stop: asyncio.Event) -> None:
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()


async def _drain(running: asyncio.Task[None], jobs: RunningJobs, settings: Settings) -> None:
    """Takes no more jobs, waits for those in flight as long as it may, and gives the rest back."""
    log.info("worker_draining", jobs=len(jobs))
    # docket renews no leases while it drains: beyond the redelivery timeout another worker would run the same jobs.
    patience_s = min(settings.drain_timeout_s, settings.redelivery_timeout_s)
    running.cancel()  # docket's signal to stop polling and wait for the jobs it has started
    done, _ = await asyncio.wait([running], timeout=patience_s)
    if not done:
        log.warning("worker_gives_back", jobs=jobs.give_back())
        done, _ = await asyncio.wait([running], timeout=GIVE_BACK_TIMEOUT_S)
    if not done:  # a row or a queue that cannot be written now; redelivery and the sweeper return these jobs
        running.cancel()
        await asyncio.wait([running])
