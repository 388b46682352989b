"""Joins concurrent calls into batches for one device. It knows no tensors and no HTTP.

No wait timer (the batch queue of text-embeddings-inference is the model): a lone call starts at once; while the device is busy arrivals
collect, and load makes the batches bigger by itself. The device has one owner, a thread, which takes the next batch as soon as it has
finished one: if the event loop handed it over, the device would wait until the loop had told all callers of the batch before. What waits
has a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from concurrent.futures import Future as Serving
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, NamedTuple, TypeVar

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

    max_size bounds lanes x the largest lane's size, because every lane of a batch is padded to its largest; a lane that is larger by
    itself still runs, alone. Above `whole_up_to` a batch is half of what waits: callers who were answered together come back together,
    and while the device works on one half the event loop serves the other, where else each would wait for the other in turn. For a device
    that does more lanes at once in the same time it is None.
    """

    max_lanes: int
    max_waiting_lanes: int
    max_size: int
    whole_up_to: int | None = None


class WrongSizedResult(RuntimeError):
    """A batch came back with another number of results than it had lanes."""


class _Lane(NamedTuple, Generic[T]):
    item: T
    bucket: Hashable
    size: int


_Lanes = dict["asyncio.Future[R]", _Lane[T]]


class Batcher(Generic[T, R]):
    """One queue of lanes in front of one device.

    A batch holds lanes of one bucket: that of the lane that has waited longest. A batch that raises is halved and run
    again, down to single lanes: only the guilty lane fails, and a device without room for 64 lanes serves 32.
    """

    def __init__(self, run: Run[T, R], executor: Executor, limits: BatchLimits) -> None:
        self._run = run
        self._executor = executor
        self._limits = limits
        self._lock = threading.Lock()  # of the next two
        self._waiting: _Lanes[R, T] = {}  # insertion order is arrival order; leaving costs O(1)
        self._is_serving = False
        self._serving: Serving[None] | None = None
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
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        with self._lock:
            self._waiting[future] = _Lane(item, bucket, size)
            was_serving, self._is_serving = self._is_serving, True
        if not was_serving:
            loop.call_soon(self._start, loop)  # not now: others who come in this turn of the loop share the batch
        try:
            return await future
        finally:
            with self._lock:
                self._waiting.pop(future, None)  # a caller who left while waiting takes no lane

    async def close(self) -> None:
        """Admits nothing more, fails what waits with Draining, and returns when the running batch has ended."""
        self._is_closed = True
        self._fail_waiting(_draining())
        if self._serving is not None:
            await asyncio.wait([asyncio.wrap_future(self._serving)])

    def _admit(self) -> None:
        if self._is_closed:
            raise _draining()
        if len(self._waiting) >= self._limits.max_waiting_lanes:
            raise Overloaded(f"{len(self._waiting)} lanes are waiting for the device, and no more than that may wait; try again")

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._serving = self._executor.submit(self._serve, loop)
        except RuntimeError as gone:
            self._fail_waiting(gone)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Runs batches until nothing waits, in the device thread."""
        while batch := self._take_batch():
            items = [lane.item for lane in batch.values()]
            results = self._run_halving(next(iter(batch.values())).bucket, items, perf_counter())
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_deliver, list(batch), results)

    def _take_batch(self) -> _Lanes[R, T]:
        """The longest waiting lane and, in order of arrival, those of its bucket that still fit. Where nothing waits, the next
        caller starts anew."""
        with self._lock:
            batch = self._choose_batch()
            for future in batch:
                del self._waiting[future]
            self._is_serving = bool(batch)
        return batch

    def _choose_batch(self) -> _Lanes[R, T]:
        batch: _Lanes[R, T] = {}
        bucket, largest, most = None, 0, self._most_lanes()
        for future, lane in self._waiting.items():
            if future.done():
                continue
            if not batch:
                bucket = lane.bucket
            elif lane.bucket != bucket or (len(batch) + 1) * max(largest, lane.size) > self._limits.max_size:
                continue
            batch[future] = lane
            largest = max(largest, lane.size)
            if len(batch) == most:
                break
        return batch

    def _most_lanes(self) -> int:
        whole = self._limits.whole_up_to
        return self._limits.max_lanes if whole is None else min(self._limits.max_lanes, max(whole, (len(self._waiting) + 1) // 2))

    def _fail_waiting(self, fault: Exception) -> None:
        with self._lock:
            stranded = list(self._waiting)
            self._waiting.clear()
            self._is_serving = False
        for future in stranded:
            _fail(future, fault)

    def _run_halving(self, bucket: Hashable, items: Sequence[T], taken: float) -> list[R | Exception]:
        """One result or error per item. Runs in the device thread; one guilty lane costs about 2 log2(lanes) more runs."""
        try:
            return self._run_counted(bucket, items, taken)
        except BaseException as fault:  # also of what would end the thread: nobody else could tell the callers
            if len(items) == 1:
                return [fault if isinstance(fault, Exception) else _draining()]
        # Outside the except block: there the traceback would still hold the tensors of the failed batch, and its memory.
        half = len(items) // 2
        return self._run_halving(bucket, items[:half], taken) + self._run_halving(bucket, items[half:], taken)

    def _run_counted(self, bucket: Hashable, items: Sequence[T], taken: float) -> list[R | Exception]:
        results = list(self._run(bucket, items, taken))
        if len(results) == len(items):
            return results
        wrong = WrongSizedResult(f"a batch of {len(items)} lanes in bucket {bucket} returned {len(results)} results. This is a bug.")
        return [wrong] * len(items)


def _deliver(callers: Sequence[asyncio.Future[R]], results: Sequence[R | Exception]) -> None:
    for future, result in zip(callers, results, strict=True):
        if isinstance(result, Exception):
            _fail(future, result)
        elif not future.done():  # a caller who left while the batch ran harms nobody
            future.set_result(result)


def _draining() -> Draining:
    return Draining("the engine is shutting down and takes no more work")


def _fail(future: asyncio.Future[R], fault: Exception) -> None:
    if not future.done():
        future.set_exception(fault)
