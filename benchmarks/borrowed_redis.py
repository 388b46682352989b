"""A database of a running Redis that nobody uses: only an empty one is taken, and it is left empty."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.exceptions import RedisError

DEFAULT_URL = "redis://127.0.0.1:6379"
DATABASES = range(15, 0, -1)
NOT_THERE = "no Redis at INNERLOOP_BENCHMARK_REDIS_URL or 127.0.0.1:6379 with an empty database"


@contextmanager
def borrowed_redis() -> Iterator[str | None]:
    """The URL of an empty database, emptied again when the block ends; None when there is none."""
    url = find_empty_database(os.environ.get("INNERLOOP_BENCHMARK_REDIS_URL", DEFAULT_URL))
    try:
        yield url
    finally:
        if url is not None:
            with redis.Redis.from_url(url) as client:
                client.flushdb()


def find_empty_database(server_url: str) -> str | None:
    """The URL of the server's last empty database; 0 is never taken, since that is where others begin."""
    for number in DATABASES:
        url = f"{server_url}/{number}"
        try:
            with redis.Redis.from_url(url, socket_connect_timeout=1.0) as client:
                if client.dbsize() == 0:
                    return url
        except RedisError:
            return None
    return None
