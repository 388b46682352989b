"""The queue door: one function per job. A job carries ids, calls one service, and may run any number of times."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from docket import ExponentialRetry, Perpetual

from app.services.adaptations import AdaptationService
from app.settings import Settings

Job = Callable[..., Awaitable[None]]

# 0.5 s, 1 s, 2 s, ... 30 s: about three minutes of an outage. After that the row waits for the sweeper, which never gives up.
FIRST_RETRY, LAST_RETRY, MAX_TRIES = timedelta(seconds=0.5), timedelta(seconds=30), 12


class RunningJobs:
    """The jobs in flight in this process, so that a worker that stops can give them back."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    async def run(self, work: Coroutine[Any, Any, None]) -> bool:
        """Runs a job's work to its end. False when it was given back instead."""
        running = asyncio.create_task(work)
        self._running.add(running)
        try:
            await asyncio.wait([running])
        finally:
            self._running.discard(running)
            if not running.done():  # the job itself was cancelled: so is its work
                running.cancel()
                await asyncio.wait([running])
        if running.cancelled():
            return False
        await running
        return True

    def give_back(self) -> int:
        """Cancels all work in flight; the number of jobs given back."""
        for running in self._running:
            running.cancel()
        return len(self._running)


@dataclass(frozen=True)
class Jobs:
    """The bodies of the jobs, ready to be registered, and those of them that are running."""

    bodies: tuple[Job, ...]
    running: RunningJobs


def make_jobs(adaptations: AdaptationService, settings: Settings) -> Jobs:
    """The jobs over one process's services. Their names are `app.queue.ADAPT` and `SWEEP`."""
    running = RunningJobs()

    async def adapt(
        task_id: str,
        revision: int,
        retry: ExponentialRetry = ExponentialRetry(attempts=MAX_TRIES, minimum_delay=FIRST_RETRY, maximum_delay=LAST_RETRY),  # noqa: B008
    ) -> None:
        """One adaptation. What it raises (Unavailable, Overloaded, a fault of ours) is tried again, later and later.

        The attempts that count are in the row: they fail a poison job for good.
        """
        if not await running.run(adaptations.run(task_id, revision)):
            retry.after(timedelta(0))  # back on the queue at once, for another worker: no need to wait for a redelivery

    async def sweep(perpetual: Perpetual = Perpetual(every=timedelta(seconds=settings.sweep_interval_s), automatic=True)) -> None:  # noqa: B008
        """Enqueues what was lost, again and again; one worker of the fleet at a time."""
        await adaptations.sweep()

    return Jobs((adapt, sweep), running)
