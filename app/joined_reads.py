"""Reads that meet: those asked for while one is under way share the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Read = Callable[[Sequence[K]], Awaitable[Sequence[V | Exception]]]
"""The value of each key, or its fault, in their order. What it raises is everybody's fault."""


class JoinedReads(Generic[K, V]):
    """A thousand questions at once cost a few reads, of `most` keys each.

    A read never begins before it was asked for, so nobody is told what was true earlier. One owner: the event loop.
    """

    def __init__(self, read: Read[K, V], most: int) -> None:
        self._read, self._most = read, most
        self._waiting: dict[K, asyncio.Future[V]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def get(self, key: K) -> V:
        """The value of one key, or what its read raised."""
        if key not in self._waiting:
            self._waiting[key] = asyncio.get_running_loop().create_future()
        waiter = self._waiting[key]
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_all(), name="joined reads")
        return await asyncio.shield(waiter)  # a caller who leaves harms none of those who wait for the same key

    async def close(self) -> None:
        """Ends the read that is under way; whoever waits is cancelled."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        _cancel(self._waiting.values())  # of a task that had not begun

    async def _read_all(self) -> None:
        """One read after another, until nobody waits."""
        while self._waiting:
            batch = {key: self._waiting.pop(key) for key in list(self._waiting)[: self._most]}
            try:
                found = await self._read(list(batch))
            except Exception as fault:  # nobody else would tell them
                found = [fault] * len(batch)
            except BaseException:
                _cancel([*batch.values(), *self._waiting.values()])
                raise
            for waiter, value in zip(batch.values(), found, strict=True):
                _tell(waiter, value)


def _tell(waiter: asyncio.Future[V], value: V | Exception) -> None:
    if isinstance(value, Exception):
        waiter.set_exception(value)
        waiter.exception()  # taken: whoever waited may have left
    else:
        waiter.set_result(value)


def _cancel(waiters: Iterable[asyncio.Future[V]]) -> None:
    for waiter in waiters:
        waiter.cancel()
