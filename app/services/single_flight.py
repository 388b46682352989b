"""One piece of work per key at a time: however many ask for it, it is done once, and a caller that leaves harms nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class SingleFlight(Generic[K, R]):
    """Joins concurrent calls with equal keys; nothing is remembered after the work has ended."""

    def __init__(self) -> None:
        self._flights: dict[K, asyncio.Future[R]] = {}

    async def run(self, key: K, work: Callable[[], Awaitable[R]]) -> R:
        """The result (or the exception) of the one run of `work` for this key."""
        return await asyncio.shield(self.start(key, work))

    def start(self, key: K, work: Callable[[], Awaitable[R]]) -> asyncio.Future[R]:
        """The one run itself, for who does not wait for it."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.ensure_future(work())
            flight.add_done_callback(lambda done: self._land(key, done))
        return flight

    def _land(self, key: K, flight: asyncio.Future[R]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # taken, so that a flight everybody left is not reported as never retrieved
