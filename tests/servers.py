"""Real servers for tests: found by URL or on the default ports, or a Redis of our own that a test may kill."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import redis

DEFAULT_POSTGRES_URL = "postgresql://postgres@127.0.0.1:5432/test"
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


class RedisServer:
    """A private `redis-server` without persistence, on a free port, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Starts it, empty, on the same port as before."""
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(["redis-server", *options], stdout=log, stderr=log)
        for _ in range(200):
            if redis_answers(self.url):
                return
            time.sleep(0.02)
        raise RuntimeError(f"redis-server did not start; see {self._folder}/redis.log")

    def kill(self) -> None:
        """kill -9, as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def find_postgres() -> str | None:
    """A PostgreSQL that lets us make databases, or None."""
    url = os.environ.get("INNERLOOP_TEST_POSTGRES_URL", DEFAULT_POSTGRES_URL)
    try:
        psycopg.connect(url, connect_timeout=3).close()
    except psycopg.OperationalError:
        return None
    return url


def find_redis() -> str | None:
    """A Redis that is running already, or None."""
    url = os.environ.get("INNERLOOP_TEST_REDIS_URL", DEFAULT_REDIS_URL)
    return url if redis_answers(url) else None


def can_start_redis() -> bool:
    """Whether the program is on this machine."""
    return shutil.which("redis-server") is not None


def redis_answers(url: str) -> bool:
    """One PING."""
    client = redis.Redis.from_url(url, socket_connect_timeout=1)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
