"""Joins concurrent calls into batches for one device. It knows no tensors and no HTTP.

No wait timer (the batch queue of text-embeddings-inference is the model): a lone call starts at once; while the
device is busy arrivals collect, and load makes the batches bigger by itself. The deque has one owner, the event loop;
the device has one owner, a one-thread executor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

from app.errors import Draining, Overloaded

T = TypeVar("T")
R = TypeVar("R")

Run = Callable[[Hashable, Sequence[T], float], Sequence[R | Exception]]
"""Runs one batch of one bucket on the device, blocking; one result, or one error as a value, per lane and in their order.

The third argument is when the batch was taken out of the queue, by time.perf_counter.
"""


@dataclass(frozen=True)
class BatchLimits:
    """How large one batch may grow, and how many lanes may wait for the device.

    max_size bounds lanes x the largest lane's size, because every lane of a batch is padded to its largest;
    a lane that is larger by itself still runs, alone.
    """

    max_lanes: int
    max_waiting_lanes: int
    max_size: int


class WrongSizedResult(RuntimeError):
    """A batch came back with another number of results than it had lanes."""


@dataclass(frozen=True)
class _Lane(Generic[T]):
    item: T
    bucket: Hashable
    size: int


class Batcher(Generic[T, R]):
    """One queue of lanes in front of one device.

    A batch holds lanes of one bucket: that of the lane that has waited longest. A batch that raises is halved and run
    again, down to single lanes: only the guilty lane fails, and a device without room for 64 lanes serves 32.
    """

    def __init__(self, run: Run[T, R], executor: Executor, limits: BatchLimits) -> None:
        self._run = run
        self._executor = executor
        self._limits = limits
        self._waiting: dict[asyncio.Future[R], _Lane[T]] = {}  # insertion order is arrival order; leaving costs O(1)
        self._serving: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def waiting_lanes(self) -> int:
        """Lanes that wait for the device, those of the running batch not counted."""
        return len(self._waiting)

    async def submit(self, item: T, bucket: Hashable, size: int = 1) -> R:
        """The result of `item`'s lane; `size` is what it is padded by, such as its number of examples.

        Raises Overloaded when too many lanes wait, Draining after close, and whatever the lane itself ended with.
        """
        self._admit()
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting[future] = _Lane(item, bucket, size)
        self._wake()
        try:
            return await future
        finally:
            self._waiting.pop(future, None)  # a caller who left while waiting takes no lane

    async def close(self) -> None:
        """Admits nothing more, fails what waits with Draining, and returns when the running batch has ended."""
        self._is_closed = True
        for future in list(self._waiting):
            _fail(future, _draining())
        self._waiting.clear()
        if self._serving is not None:
            await asyncio.wait([self._serving])

    def _admit(self) -> None:
        if self._is_closed:
            raise _draining()
        if len(self._waiting) >= self._limits.max_waiting_lanes:
            raise Overloaded(f"{len(self._waiting)} lanes are waiting for the device, and no more than that may wait; try again")

    def _wake(self) -> None:
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve(), name="engine - batcher")

    async def _serve(self) -> None:
        """Runs batches until nothing waits."""
        while batch := self._take_batch():
            try:
                await self._serve_batch(batch)
            except BaseException as fault:  # the loop is going down, or the executor is: strand nobody
                for future in [*batch, *self._waiting]:
                    _fail(future, fault if isinstance(fault, Exception) else _draining())
                if isinstance(fault, Exception):  # its callers have it
                    return
                raise

    async def _serve_batch(self, batch: dict[asyncio.Future[R], _Lane[T]]) -> None:
        bucket = next(iter(batch.values())).bucket
        items = [lane.item for lane in batch.values()]
        results = await asyncio.get_running_loop().run_in_executor(self._executor, self._run_halving, bucket, items, perf_counter())
        for future, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                _fail(future, result)
            elif not future.done():  # a caller who left while the batch ran harms nobody
                future.set_result(result)

    def _take_batch(self) -> dict[asyncio.Future[R], _Lane[T]]:
        """The longest waiting lane and, in order of arrival, those of its bucket that still fit."""
        batch: dict[asyncio.Future[R], _Lane[T]] = {}
        bucket, largest = None, 0
        for future, lane in self._waiting.items():
            if future.done():
                continue
            if not batch:
                bucket = lane.bucket
            elif lane.bucket != bucket or (len(batch) + 1) * max(largest, lane.size) > self._limits.max_size:
                continue
            batch[future] = lane
            largest = max(largest, lane.size)
            if len(batch) == self._limits.max_lanes:
                break
        for future in batch:
            del self._waiting[future]
        return batch

    def _run_halving(self, bucket: Hashable, items: Sequence[T], taken: float) -> list[R | Exception]:
        """One result or error per item. Runs in the device thread; one guilty lane costs about 2 log2(lanes) more runs."""
        try:
            return self._run_counted(bucket, items, taken)
        except Exception as fault:
            if len(items) == 1:
                return [fault]
        # Outside the except block: there the traceback would still hold the tensors of the failed batch, and its memory.
        half = len(items) // 2
        return self._run_halving(bucket, items[:half], taken) + self._run_halving(bucket, items[half:], taken)

    def _run_counted(self, bucket: Hashable, items: Sequence[T], taken: float) -> list[R | Exception]:
        results = list(self._run(bucket, items, taken))
        if len(results) == len(items):
            return results
        wrong = WrongSizedResult(f"a batch of {len(items)} lanes in bucket {bucket} returned {len(results)} results. This is a bug.")
        return [wrong] * len(items)


def _draining() -> Draining:
    return Draining("the engine is shutting down and takes no more work")


def _fail(future: asyncio.Future[R], fault: Exception) -> None:
    if not future.done():
        future.set_exception(fault)
