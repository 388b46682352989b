"""Adapted states outside the device: bytes under their StateKey, in this process or in Redis."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import telemetry
from app.cache import keys
from app.cache.state_reads import StateReads
from app.domain import StateKey
from app.errors import Unavailable


class StateCache(Protocol):
    """A cache that may lose anything at any time: a lost state is adapted again. Redis away raises Unavailable redis_unavailable."""

    async def get(self, key: StateKey) -> bytes | None:
        """The state's bytes, or None when they are not here (any more)."""
        ...

    async def put(self, key: StateKey, state: bytes) -> None:
        """Keeps a state for the cache's TTL, counted from its last use."""
        ...

    async def delete(self, key: StateKey) -> None:
        """Forgets one state."""
        ...

    async def delete_task(self, task_id: str) -> None:
        """Forgets every state of a task."""
        ...

    async def ping(self) -> None:
        """Raises Unavailable when the cache cannot be reached."""
        ...

    async def close(self) -> None:
        """Lets go of connections."""
        ...


@dataclass(slots=True)
class _Entry:
    state: bytes
    expires_at: float


class LruStateCache:
    """The cache of a process without Redis: bounded in bytes, least recently used out first."""

    def __init__(self, max_bytes: int, ttl_s: float, *, clock: Callable[[], float] = monotonic) -> None:
        self._max_bytes, self._ttl_s, self._clock = max_bytes, ttl_s, clock
        self._entries: OrderedDict[StateKey, _Entry] = OrderedDict()
        self._keys_of_task: dict[str, set[StateKey]] = {}
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all states held."""
        return self._bytes

    async def get(self, key: StateKey) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self._clock()
        if entry.expires_at <= now:
            self._drop(key)
            return None
        entry.expires_at = now + self._ttl_s
        self._entries.move_to_end(key)
        return entry.state

    async def put(self, key: StateKey, state: bytes) -> None:
        self._drop(key)
        if len(state) > self._max_bytes:
            return
        self._keep(key, state)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))
            telemetry.count_state("cache", "evict")

    async def delete(self, key: StateKey) -> None:
        self._drop(key)

    async def delete_task(self, task_id: str) -> None:
        for key in list(self._keys_of_task.get(task_id, ())):
            self._drop(key)

    async def ping(self) -> None:
        return None

    async def close(self) -> None:
        self._entries.clear()
        self._keys_of_task.clear()
        self._bytes = 0

    def _keep(self, key: StateKey, state: bytes) -> None:
        self._entries[key] = _Entry(state, self._clock() + self._ttl_s)
        self._keys_of_task.setdefault(key.task_id, set()).add(key)
        self._bytes += len(state)

    def _drop(self, key: StateKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._bytes -= len(entry.state)
        keys_left = self._keys_of_task[key.task_id]
        keys_left.discard(key)
        if not keys_left:
            del self._keys_of_task[key.task_id]


class RedisStateCache:
    """The cache shared by all processes. The client must not decode responses: states are bytes."""

    def __init__(self, redis: Redis, ttl_s: int, *, namespace: str = keys.NAMESPACE) -> None:
        self._redis, self._ttl_s, self._namespace = redis, ttl_s, namespace
        self._reads = StateReads(redis, ttl_s)

    async def get(self, key: StateKey) -> bytes | None:
        async with _as_unavailable():
            return await self._reads.get(keys.states_key(self._namespace, key.task_id), keys.state_field(key))

    async def put(self, key: StateKey, state: bytes) -> None:
        name = keys.states_key(self._namespace, key.task_id)
        # One transaction: a hash without its TTL would stay for ever.
        async with _as_unavailable(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(name, keys.state_field(key), state)
            pipe.expire(name, self._ttl_s)
            await pipe.execute()

    async def delete(self, key: StateKey) -> None:
        async with _as_unavailable():
            await self._redis.hdel(keys.states_key(self._namespace, key.task_id), keys.state_field(key))

    async def delete_task(self, task_id: str) -> None:
        async with _as_unavailable():
            await self._redis.delete(keys.states_key(self._namespace, task_id))

    async def ping(self) -> None:
        async with _as_unavailable():
            await self._redis.ping()

    async def close(self) -> None:
        await self._reads.close()
        await self._redis.aclose()


@asynccontextmanager
async def _as_unavailable() -> AsyncIterator[None]:
    """The one place where redis-py's errors become ours."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable("Redis cannot be reached", reason=str(error), code="redis_unavailable") from error
