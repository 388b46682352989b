"""Signals between processes. A lost signal is harmless: whoever waits for one reads the row again anyway."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.cache import keys

_log = structlog.get_logger(__name__)
Callback = Callable[[str], Awaitable[None]]


class Subscription:
    """One waiter for one topic; signals are remembered from the moment it exists."""

    def __init__(self) -> None:
        self._told = asyncio.Event()

    def tell(self) -> None:
        """Wakes the waiter."""
        self._told.set()

    async def wait(self, timeout_s: float) -> bool:
        """True as soon as a signal came since the last wait, False after timeout_s without one."""
        try:
            await asyncio.wait_for(self._told.wait(), timeout_s)
        except TimeoutError:
            return False
        self._told.clear()
        return True


class Signals(Protocol):
    """Publish and subscribe. `publish` never raises; Redis away only means that the signal is lost."""

    @property
    def is_listening(self) -> bool:
        """Whether signals of other processes are heard, as far as is known."""
        ...

    async def start(self) -> None:
        """Begins to listen; called once by the root."""
        ...

    async def publish(self, topic: str) -> None:
        """Tells every subscriber of the topic, in every process, at most once."""
        ...

    def subscribe(self, topic: str) -> contextlib.AbstractContextManager[Subscription]:
        """Subscribe first, then read the row, then wait: no signal falls between."""
        ...

    def listen(self, prefix: str, callback: Callback) -> None:
        """Calls back with every topic that starts with prefix, for as long as the process lives."""
        ...

    async def close(self) -> None:
        """Stops listening."""
        ...


class LocalSignals:
    """Signals within one process, and the dispatcher behind the others."""

    def __init__(self) -> None:
        self._subscriptions: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._listeners: list[tuple[str, Callback]] = []
        self._running: set[asyncio.Task[None]] = set()

    @property
    def is_listening(self) -> bool:
        return True

    async def start(self) -> None:
        return None

    async def publish(self, topic: str) -> None:
        self.dispatch(topic)

    @contextmanager
    def subscribe(self, topic: str) -> Iterator[Subscription]:
        subscription = Subscription()
        self._subscriptions[topic].add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions[topic].discard(subscription)
            if not self._subscriptions[topic]:
                del self._subscriptions[topic]

    def listen(self, prefix: str, callback: Callback) -> None:
        self._listeners.append((prefix, callback))

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def dispatch(self, topic: str) -> None:
        """Wakes the subscribers of a topic and starts the callbacks that listen to it."""
        for subscription in self._subscriptions.get(topic, ()):
            subscription.tell()
        for prefix, callback in self._listeners:
            if topic.startswith(prefix):
                self._start(callback(topic))

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(_quietly(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)


class RedisSignals:
    """Signals over Redis pub/sub: one pattern subscription per process, reconnecting for as long as it lives."""

    def __init__(self, redis: Redis, *, namespace: str = keys.NAMESPACE, reconnect_s: float = 1.0) -> None:
        self._redis, self._namespace, self._reconnect_s = redis, namespace, reconnect_s
        self._local = LocalSignals()
        self._reader: asyncio.Task[None] | None = None
        self._is_subscribed = asyncio.Event()

    @property
    def is_listening(self) -> bool:
        return self._is_subscribed.is_set()

    async def subscribed(self, timeout_s: float) -> bool:
        """True once the subscription stands: what is published before is not heard."""
        try:
            await asyncio.wait_for(self._is_subscribed.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def start(self) -> None:
        self._reader = asyncio.create_task(self._read_for_ever())

    async def publish(self, topic: str) -> None:
        # Redis away: at least the waiters of this process are told. Redis there: it comes back through the subscription.
        try:
            await self._redis.publish(keys.signal_channel(self._namespace, topic), b"")
        except (RedisError, OSError, TimeoutError):
            self._local.dispatch(topic)

    def subscribe(self, topic: str) -> contextlib.AbstractContextManager[Subscription]:
        return self._local.subscribe(topic)

    def listen(self, prefix: str, callback: Callback) -> None:
        self._local.listen(prefix, callback)

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._local.close()

    async def _read_for_ever(self) -> None:
        while True:
            try:
                await self._read()
            except (RedisError, OSError, TimeoutError):
                pass  # told by /readyz, and by who asks whether anything can be heard
            except Exception:  # whatever it is, a process that hears nothing must know so
                _log.exception("signals_lost")
            self._is_subscribed.clear()
            await asyncio.sleep(self._reconnect_s)

    async def _read(self) -> None:
        prefix = keys.signal_channel(self._namespace, "")
        async with self._redis.pubsub() as pubsub:
            await pubsub.psubscribe(prefix + "*")
            while True:
                # With a timeout of our own: the client's shorter one, meant for commands, would break an idle subscription.
                message = await pubsub.get_message(timeout=30.0)
                if message is None:
                    continue
                if message["type"] == "psubscribe":
                    self._is_subscribed.set()
                    continue
                self._local.dispatch(bytes(message["channel"]).decode(errors="replace").removeprefix(prefix))


async def _quietly(work: Awaitable[None]) -> None:
    """A listener's failure stays its own: what it missed, its periodic run catches up."""
    try:
        await work
    except Exception:
        _log.exception("listener_failed")
