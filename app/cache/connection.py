"""The Redis client of the services: bytes in and out, and no call that waits for ever."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect_redis(url: str, *, max_connections: int = 256) -> Redis:
    """A client for states and signals; connects at the first command. max_connections below redis-py's own 100 starves bursts."""
    return Redis.from_url(
        url,
        decode_responses=False,
        max_connections=max_connections,
        # Once: a connection that Redis closed in the meantime. More would keep a request waiting for a Redis that is away.
        retry=Retry(NoBackoff(), 1),
        socket_connect_timeout=2.0,
        socket_timeout=2.0,
        health_check_interval=15,
    )
