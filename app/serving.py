"""The processes: uvicorn around the HTTP door, and the queue worker, each from start to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import FrameType
from typing import Literal

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from app import telemetry
from app.admin import Admin
from app.composition import build_services
from app.main import Application, create_app
from app.one_write import OneWriteProtocol
from app.settings import Settings
from app.worker import run_worker
from app.worker_page import listen, showing_page

_SWITCH_INTERVAL_S = 2.5e-4
"""How long a thread may keep the interpreter from the others: under load the device thread stood still for 5 ms, Python's own choice,
whenever it came back from C. Beside a thread that never rests a batch of 29 predictions took 9.8 ms at 5 ms, 3.6 at 1 ms, 2.7 at a quarter
and no less below, and that thread kept 86, 92, 88 and 83 % of its speed (two cores of an Intel Xeon, 2026-11-21)."""


def settle_interpreter() -> None:
    """What is loaded by now stays: the garbage collector need not look at it again.

    It went through the half million objects of torch and SQLAlchemy every few seconds, and held up every request for 170 ms
    (two cores of an AMD EPYC, 2026-11-21); what is made from here on takes it a few.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


class DrainingServer(uvicorn.Server):
    """uvicorn that first closes the gate: a stopping process admits nothing new on the connections it still has."""

    def __init__(self, config: uvicorn.Config, app: Application) -> None:
        super().__init__(config)
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        settle_interpreter()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        door = getattr(self._app.api.state, "door", None)
        if door is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(door.gate.close)
        super().handle_exit(sig, frame)


def run_http_process(settings: Settings, role: Literal["all", "api"], *, announce: Callable[[str], None]) -> None:
    """Serves until a signal. `announce` is told the URL once the socket is bound, and the first key if this start makes it."""
    app = create_app(settings, role)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=OneWriteProtocol,
        log_config=None,
        access_log=False,  # the service logs requests itself, with their ids
        timeout_graceful_shutdown=round(settings.drain_timeout_s),
    )
    listening = config.bind_socket()  # first: a start that ends here, as the port is taken, makes no key that nobody is shown
    first_key = asyncio.run(Admin(settings).make_first_key())
    port = listening.getsockname()[1]
    for line in greeting(settings.host, port, first_key):
        announce(line)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again after an orderly end
        DrainingServer(config, app).run(sockets=[listening])


def greeting(host: str, port: int, first_key: str | None) -> list[str]:
    """What a person at the terminal needs to begin: the URL, and once only the key."""
    url = _write_url(host, port)
    if first_key is None:
        return [f"InnerLoop on {url}"]
    return [
        f"The first admin key, shown this once: {first_key}",
        f"InnerLoop on {url}/?key={first_key}",
    ]


def _write_url(host: str, port: int) -> str:
    """As a browser on this machine can open it."""
    shown = "127.0.0.1" if host in {"0.0.0.0", "::", ""} else host  # noqa: S104
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def run_worker_process(settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Works the queue until a signal, on the event loop that uvicorn would choose. `announce` is told where its page is, if it has one.

    Raises SystemExit, with what to say, where the port of that page cannot be had.
    """
    page = _open_page(settings, announce)  # first: nobody waits for torch and the stores to learn that the port is taken
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(_work(settings, page))


def _open_page(settings: Settings, announce: Callable[[str], None]) -> AbstractAsyncContextManager[None]:
    if settings.metrics_port is None:
        return contextlib.nullcontext()
    try:
        listening = listen(settings.host, settings.metrics_port)
    except OSError as error:
        raise SystemExit(f"INNERLOOP_METRICS_PORT (--metrics-port): expected a port to listen on: {error.strerror}") from None
    announce(f"Metrics on {_write_url(settings.host, listening.getsockname()[1])}/metrics")
    # docket's own counts take 79 us of the loop for each job (two cores of an AMD EPYC, 2026-11-22): only where somebody can read them.
    telemetry.bridge_opentelemetry()
    return showing_page(listening)


async def _work(settings: Settings, page: AbstractAsyncContextManager[None]) -> None:
    """The page is there from the beginning, when tables may take long to migrate, to the end, when the last jobs are counted."""
    stop = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    async with page, build_services(settings) as services:
        settle_interpreter()
        await run_worker(services, settings, stop)
