"""The service without its doors: the same services over the same stores as `innerloop serve`, in this process, with tasks adapted."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.composition import Services, build_services
from app.domain import Caller, SupportSet
from app.services.requests import NewTask
from app.services.serving import Serving
from app.serving import settle_interpreter
from app.settings import Settings
from benchmarks.harness import Plan
from benchmarks.http_contenders import K_SHOT, LABELS, N_WAY, draw_images
from benchmarks.server_process import offer_initializer

CALLER = Caller("key_benchmark", frozenset({"user"}))
AT_ONCE = 64


@dataclass(frozen=True)
class ServiceTasks:
    """The services, and what serves each of their tasks."""

    services: Services
    serving: list[Serving]


@asynccontextmanager
async def adapted_tasks(plan: Plan, folder: Path, initializer: Path, n_tasks: int, **settings: object) -> AsyncIterator[ServiceTasks]:
    """`n_tasks` adapted tasks of one initializer; `settings` are those of the service that matter to the benchmark."""
    offered = offer_initializer(folder, initializer)
    given: dict[str, object] = {"home_dir": folder, "initializers_dir": offered, "database_url": ""}
    given |= {"device": plan.device, "torch_threads": plan.service_threads}
    async with build_services(Settings.model_validate({**given, **settings})) as services:
        permits = asyncio.Semaphore(AT_ONCE)
        serving = await asyncio.gather(*(_adapt(services, initializer.name, task, permits) for task in range(n_tasks)))
        with settled_interpreter():
            yield ServiceTasks(services, serving)


@contextmanager
def settled_interpreter() -> Iterator[None]:
    """What is loaded is frozen for the collector and threads change sooner, as in the server; afterwards all is as it was."""
    interval_s = sys.getswitchinterval()
    settle_interpreter()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(interval_s)


async def _adapt(services: Services, initializer: str, task: int, permits: asyncio.Semaphore) -> Serving:
    """Runs the job here, as a worker would; the queue's own copy of it is never worked."""
    async with permits:
        support = SupportSet(draw_images(N_WAY * K_SHOT, task), tuple(LABELS))
        made, _ = await services.tasks.create(CALLER, NewTask(initializer, support, name=f"task {task}"))
        await services.adaptations.run(made.id, made.latest.revision)
        return await services.predictions.find_serving(CALLER, made.id)
