"""The service as its users run it: `innerloop serve` and `innerloop worker` in processes of their own, on real sockets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.admin import Admin
from app.settings import Settings
from tests.servers import free_port

START_TIMEOUT_S = 60.0


@dataclass
class Process:
    """A running `innerloop ...` and where its output goes."""

    popen: subprocess.Popen[bytes]
    log: Path
    url: str = ""

    def kill(self) -> None:
        """kill -9: no chance to give anything back."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM and an orderly end; the exit status."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout_s)

    def tail(self) -> str:
        """The end of what it said."""
        return self.log.read_text(errors="replace")[-3000:]


@contextmanager
def running(folder: Path, name: str, *args: str, settings: Mapping[str, str]) -> Iterator[Process]:
    """`innerloop *args` with exactly these INNERLOOP_ settings; killed at the end if it still runs."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("INNERLOOP_")}
    environment |= {"INNERLOOP_HOME_DIR": str(folder / "home"), "INNERLOOP_DEVICE": "cpu", "INNERLOOP_TORCH_THREADS": "1", **settings}
    log = folder / f"{name}.log"
    command = [sys.executable, "-m", "app.cli", *args]
    with log.open("wb") as sink:
        popen = subprocess.Popen(command, env=environment, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
    process = Process(popen, log)
    try:
        yield process
    finally:
        if popen.poll() is None:
            process.kill()


@contextmanager
def serving(folder: Path, *args: str, name: str = "serve", settings: Mapping[str, str]) -> Iterator[Process]:
    """`innerloop serve *args` on a free port, once it is ready."""
    port = free_port()
    with running(folder, name, "serve", "--port", str(port), *args, settings=settings) as process:
        process.url = f"http://127.0.0.1:{port}"
        await_ready(process)
        yield process


def await_ready(process: Process) -> None:
    """Returns when /readyz says so."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.popen.poll() is None:
        try:
            if httpx.get(f"{process.url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise AssertionError(f"not ready: {process.tail()}")


async def make_key(folder: Path, *scopes: str, settings: Mapping[str, str]) -> str:
    """A key of the service with these settings, made by what `innerloop keys create` calls."""
    database_url = settings.get("INNERLOOP_DATABASE_URL", "")
    return await Admin(Settings(home_dir=folder / "home", database_url=database_url)).create_key("test", scopes or ("user",))
