"""The servers under test, each in a process of its own, as a user would start it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.catalogue import ROOT
from benchmarks.http_connection import HOST, encode_request
from benchmarks.load_generator import exchange_all

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Server:
    """A running server: where it listens and where it writes."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def get(self, path: str) -> bytes:
        """The body of a GET. Raises RuntimeError unless it is a 2xx."""
        return exchange_all(self.port, [encode_request("GET", path, {})])[0].body


@dataclass(frozen=True)
class Stores:
    """Where the processes of one service meet: PostgreSQL at the newest schema, and Redis."""

    database_url: str
    redis_url: str


def start_innerloop(folder: Path, initializer: Path, threads: int, device: str, stores: Stores | None) -> list[Server]:
    """`innerloop serve` with its embedded defaults; with `stores`, the API and behind it a worker, each a process, the worker with nothing
    on its port but its own page. 0 threads: as many as a process takes by itself. The one initializer stands in a folder of its own."""
    environment = {"INNERLOOP_INITIALIZERS_DIR": str(offer_initializer(folder, initializer)), "INNERLOOP_TORCH_THREADS": str(threads)}
    database_url, redis_url = (stores.database_url, stores.redis_url) if stores else ("", "")
    where = ["--home-dir", str(folder / "home"), "--device", device, "--database-url", database_url, "--redis-url", redis_url]
    port, python = free_port(), [sys.executable, "-m", "app.cli"]
    serve = [*python, "serve", "--role", "api" if stores else "all", "--host", HOST, "--port", str(port), *where]
    servers = [_start(serve, port, folder / "innerloop.log", environment)]
    if stores:
        page_at = free_port()
        worker = [*python, "worker", "--host", HOST, "--metrics-port", str(page_at), *where]
        servers.append(_start(worker, page_at, folder / "worker.log", environment))
    return servers


def offer_initializer(folder: Path, initializer: Path) -> Path:
    """A folder in which a service finds one initializer, and starts sooner than with all that are bundled."""
    offered = folder / "initializers"
    offered.mkdir(parents=True)
    (offered / initializer.name).symlink_to(initializer.resolve())
    return offered


def read_first_key(server: Server) -> str:
    """The admin key that a fresh service prints, once."""
    found = re.search(r"il_[0-9a-f]{8}_[\w-]{43}", server.log.read_text())
    if found is None:
        raise RuntimeError(f"no key in {server.log}:\n{server.log.read_text()[-2000:]}")
    return found[0]


def start_module(module: str, folder: Path, *arguments: str) -> Server:
    """A module of this package that takes `--port`."""
    port = free_port()
    return _start([sys.executable, "-m", module, "--port", str(port), *arguments], port, folder / f"{module}-{port}.log", {})


@contextmanager
def stopping(servers: Sequence[Server]) -> Iterator[None]:
    """Ends the servers when the block ends, however it does."""
    try:
        yield
    finally:
        for server in servers:
            server.process.send_signal(signal.SIGTERM)
        for server in servers:
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(STOP_TIMEOUT_S)
            with suppress(ProcessLookupError):  # what is left of its session: LitServe's workers outlive it
                os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()


def await_ready(server: Server, path: str) -> None:
    """Returns when a GET is answered with 2xx. Raises RuntimeError with the end of the log when that does not come."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while server.process.poll() is None and time.monotonic() < deadline_s:
        try:
            server.get(path)
        except (OSError, RuntimeError):
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"not ready; the end of {server.log}:\n{server.log.read_text()[-2000:]}")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _start(command: Sequence[str], port: int, log: Path, environment: Mapping[str, str]) -> Server:
    with log.open("wb") as sink:
        # A session of its own: Ctrl-C reaches the benchmark, which then ends its servers in order.
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    return Server(process, port, log)
