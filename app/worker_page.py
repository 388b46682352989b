"""What a worker shows of itself on a port of its own: `/metrics`, as the HTTP process has it, and `/livez` for an orchestrator to probe.

uvicorn serves it on the worker's own event loop. `prometheus_client` has a server in a thread: it would take the interpreter from that loop
and from the device for each page, and go on saying that it lives where the loop stands still.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from fastapi import FastAPI

from app import telemetry
from app.api import health

GRACE_S = 1
"""A page is written in milliseconds; whoever has not read his by then does not keep the process from ending."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that can be connected to; port 0 takes a free one. Raises OSError where the address is taken or not this machine's.

    It listens from here on: uvicorn's own socket is only bound at first, which two processes can do to one port.
    """
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


@asynccontextmanager
async def showing_page(listening: socket.socket) -> AsyncIterator[None]:
    """The page is there while the block runs, and what is counted for it alone is counted. Closes the socket."""
    config = uvicorn.Config(_make_app(), lifespan="off", ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_S)
    server = _PageServer(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="worker page")
    try:
        async with telemetry.event_loop_watched():
            yield
    finally:
        server.should_exit = True
        await serving


def _make_app() -> FastAPI:
    """The two pages of the HTTP process that say something of a worker, and nothing else."""
    app = FastAPI(openapi_url=None, telemetry={"metrics": False})
    app.add_api_route("/livez", health.livez)
    app.add_api_route("/metrics", health.metrics)
    return app


class _PageServer(uvicorn.Server):
    """uvicorn that leaves signals to the worker, which ends its page when its own work is over."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
