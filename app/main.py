"""The HTTP process: services from the composition, the door in front, and with role `all` the worker beside it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Literal

import structlog
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import telemetry
from app.api import admin, health, initializers, predictions, similar, support, tasks
from app.api.deps import Door, Ping
from app.api.middleware import Admission, BodyLimit, DrainGate, RequestContext
from app.api.openapi import install_openapi
from app.api.predictions import find_plain_task
from app.api.problems import install_problem_handlers
from app.composition import Services, build_services, ping_engine
from app.errors import AppError, Unavailable
from app.settings import Settings
from app.worker import run_worker

_log = structlog.get_logger(__name__)
_DESCRIPTION = """
Post a few labelled examples, get a network of your own in milliseconds.

1. `POST /v1/tasks` with a support set; add `Prefer: wait=10` to get the finished task.
2. `POST /v1/tasks/{id}/predictions` with new inputs.

Every endpoint under `/v1` needs an API key. Errors are problem details (RFC 9457) with a stable `code`.
"""


class Application:
    """The ASGI application: FastAPI, and the way past it that predictions without parameters take, unless FastAPI is to trace them.

    Both ways have the same middlewares around them.
    """

    def __init__(self, api: FastAPI, middlewares: Sequence[Middleware]) -> None:
        """middlewares: the last one is the outermost."""
        self.api = api
        self._predictions: ASGIApp = predictions.PlainPredictions()
        for middleware in middlewares:
            api.add_middleware(middleware.cls, *middleware.args, **middleware.kwargs)
            self._predictions = middleware.cls(self._predictions, *middleware.args, **middleware.kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task_id = find_plain_task(scope)
        if task_id is None or telemetry.is_traced():
            await self.api(scope, receive, _tell_in_a_line(send) if scope["type"] == "lifespan" else send)
        else:
            scope.update(app=self.api, path_params={"task_id": task_id})
            await self._predictions(scope, receive, send)


def _tell_in_a_line(send: Send) -> Send:
    """Why a start failed, where that is an error of ours: Starlette would send its traceback, and uvicorn print it."""

    async def send_fault(message: Message) -> None:
        fault = sys.exception()
        if message["type"] == "lifespan.startup.failed" and isinstance(fault, AppError):
            message = {**message, "message": f"{fault.code}: {fault.detail}"}
        await send(message)

    return send_fault


def create_app(settings: Settings, role: Literal["all", "api"] = "all") -> Application:
    """The application. Its lifespan connects and loads everything; `api.state.door` is there while it runs."""
    telemetry.bridge_opentelemetry()
    gate = DrainGate()
    api = FastAPIOffline(  # FastAPI, but /docs carries its scripts along: the URL that is printed works without internet
        title="InnerLoop",
        version=version("innerloop"),
        summary="A REST few-shot adaptation service.",
        description=_DESCRIPTION,
        lifespan=lambda api: _lifespan(api, settings, role, gate),
        redirect_slashes=False,
        telemetry={"metrics": False},  # `middleware.RequestContext` counts requests, at a tenth of the cost
    )
    for resource in (tasks, support, predictions, similar, initializers, admin, health):
        api.include_router(resource.router)
    install_problem_handlers(api)
    install_openapi(api)
    limit = Middleware(BodyLimit, max_body_bytes=settings.max_body_bytes)
    return Application(api, [limit, Middleware(Admission, gate=gate), Middleware(RequestContext)])


@asynccontextmanager
async def _lifespan(api: FastAPI, settings: Settings, role: Literal["all", "api"], gate: DrainGate) -> AsyncIterator[None]:
    telemetry.settle_opentelemetry()
    async with build_services(settings) as services, telemetry.event_loop_watched():
        pings = _pings(services)
        async with _worker_beside(services, pings) if role == "all" else contextlib.nullcontext():
            api.state.door = _make_door(settings, services, pings, gate)
            try:
                yield
            finally:
                gate.close()


def _make_door(settings: Settings, services: Services, pings: dict[str, Ping], gate: DrainGate) -> Door:
    return Door(
        settings=settings,
        tasks=services.tasks,
        predictions=services.predictions,
        initializers=services.initializers,
        keys=services.keys,
        similarity=services.similarity,
        pings=pings,
        gate=gate,
    )


def _pings(services: Services) -> dict[str, Ping]:
    pings: dict[str, Ping] = {"database": services.database.ping, "queue": services.queue.ping, "engine": ping_engine(services.engine)}
    return {**pings, "redis": services.cache.ping} if services.settings.redis_url else pings


@asynccontextmanager
async def _worker_beside(services: Services, pings: dict[str, Ping]) -> AsyncIterator[None]:
    """Runs the worker on this loop; leaving lets it finish what runs and give back the rest. `/readyz` tells if it died."""
    stop = asyncio.Event()
    working = asyncio.create_task(run_worker(services, services.settings, stop), name="worker")
    working.add_done_callback(_report_end)

    async def ping_worker() -> None:
        if working.done():
            raise Unavailable("the worker has ended", code="worker_unavailable")

    pings["worker"] = ping_worker
    if services.queue.is_embedded:  # nobody else could take what is accepted here
        services.direct.open()
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(asyncio.wait([working]), services.direct.drain(services.settings.drain_timeout_s))


def _report_end(working: asyncio.Task[None]) -> None:
    if not working.cancelled() and (error := working.exception()) is not None:
        _log.error("worker_ended", exc_info=error)
