from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.engine.batcher import Batcher, BatchLimits, WrongSizedResult
from app.errors import Draining, Overloaded

LIMITS = BatchLimits(max_lanes=4, max_waiting_lanes=8, max_size=1000)


class Device:
    """A device that answers n with 2 n, can be held busy, and remembers the batches it ran."""

    def __init__(self) -> None:
        self.batches: list[tuple[Hashable, list[int]]] = []
        self.taken: list[float] = []
        self.is_busy = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.room = 1000

    def hold(self) -> None:
        self.may_go_on.clear()

    def release(self) -> None:
        self.may_go_on.set()

    def run(self, bucket: Hashable, items: Sequence[int], taken: float) -> Sequence[int | Exception]:
        self.is_busy.set()
        assert self.may_go_on.wait(5)
        self.batches.append((bucket, list(items)))
        self.taken.append(taken)
        if len(items) > self.room:
            raise MemoryError(f"no room for {len(items)}")
        if -1 in items:
            raise ValueError("-1 is not a number I like")
        if bucket == "short":
            return [0] * (len(items) - 1)
        return [KeyError(item) if item == -2 else 2 * item for item in items]


@pytest.fixture
async def device() -> AsyncIterator[Device]:
    device = Device()
    yield device
    device.release()


@pytest.fixture
async def executor() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
async def batcher(device: Device, executor: ThreadPoolExecutor) -> AsyncIterator[Batcher[int, int]]:
    batcher = Batcher(device.run, executor, LIMITS)
    yield batcher
    device.release()
    await batcher.close()


async def occupy(device: Device, batcher: Batcher[int, int]) -> asyncio.Task[int]:
    """A lone call that holds the device until `device.release()`."""
    device.hold()
    device.is_busy.clear()
    call = asyncio.create_task(batcher.submit(0, "first"))
    await asyncio.to_thread(device.is_busy.wait, 5)
    return call


async def submit(batcher: Batcher[int, int], *items: int, bucket: Hashable = "a", size: int = 1) -> list[asyncio.Task[int]]:
    """Calls that have all joined the queue, in this order."""
    calls = [asyncio.create_task(batcher.submit(item, bucket, size)) for item in items]
    await asyncio.sleep(0)
    return calls


async def test_a_lone_call_starts_at_once(device: Device, batcher: Batcher[int, int]) -> None:
    assert await asyncio.wait_for(batcher.submit(21, "a"), 1) == 42
    assert device.batches == [("a", [21])]


async def test_the_device_is_told_when_its_batch_was_taken_out_of_the_queue(device: Device, batcher: Batcher[int, int]) -> None:
    first = await occupy(device, batcher)
    calls, arrived = await submit(batcher, 1, 2), time.perf_counter()
    device.release()
    await asyncio.gather(first, *calls)
    assert device.taken[0] < arrived < device.taken[1] < time.perf_counter()


async def test_batches_grow_while_the_device_is_busy_and_stop_at_max_lanes(device: Device, batcher: Batcher[int, int]) -> None:
    first = await occupy(device, batcher)
    calls = await submit(batcher, 1, 2, 3, 4, 5)
    device.release()
    assert await asyncio.gather(first, *calls) == [0, 2, 4, 6, 8, 10]
    assert device.batches == [("first", [0]), ("a", [1, 2, 3, 4]), ("a", [5])]


async def test_a_batch_holds_one_bucket_and_the_oldest_lane_chooses_it(device: Device, batcher: Batcher[int, int]) -> None:
    first = await occupy(device, batcher)
    calls = [*await submit(batcher, 1, bucket="a"), *await submit(batcher, 2, bucket="b"), *await submit(batcher, 3, bucket="a")]
    device.release()
    assert await asyncio.gather(first, *calls) == [0, 2, 4, 6]
    assert device.batches[1:] == [("a", [1, 3]), ("b", [2])]


async def test_a_batch_stops_growing_when_padding_would_make_it_too_large(device: Device, batcher: Batcher[int, int]) -> None:
    first = await occupy(device, batcher)
    calls = [*await submit(batcher, 1, 2, size=400), *await submit(batcher, 3, size=5000), *await submit(batcher, 4, size=1)]
    device.release()
    assert await asyncio.gather(first, *calls) == [0, 2, 4, 6, 8]
    assert device.batches[1:] == [("a", [1, 2]), ("a", [3]), ("a", [4])]


async def test_above_a_few_lanes_a_batch_is_half_of_what_waits(device: Device, executor: ThreadPoolExecutor) -> None:
    batcher = Batcher(device.run, executor, replace(LIMITS, max_lanes=8, whole_up_to=2))
    first = await occupy(device, batcher)
    calls = await submit(batcher, *range(1, 8))
    device.release()
    assert await asyncio.gather(first, *calls) == [2 * n for n in range(8)]
    assert device.batches[1:] == [("a", [1, 2, 3, 4]), ("a", [5, 6]), ("a", [7])]


async def test_the_device_takes_its_next_batch_while_the_event_loop_is_busy(device: Device, batcher: Batcher[int, int]) -> None:
    first = await occupy(device, batcher)
    calls = await submit(batcher, 1, 2, 3, 4, 5)
    device.release()
    until = time.monotonic() + 5
    while len(device.batches) < 3 and time.monotonic() < until:
        time.sleep(0.001)  # noqa: ASYNC251 - the event loop is meant to stand still
    assert [len(items) for _, items in device.batches] == [1, 4, 1]
    assert await asyncio.gather(first, *calls) == [0, 2, 4, 6, 8, 10]


async def test_a_batch_that_would_end_the_thread_strands_nobody(executor: ThreadPoolExecutor) -> None:
    def run(bucket: Hashable, items: Sequence[int], taken: float) -> Sequence[int | Exception]:
        if 1 in items:
            raise SystemExit
        return list(items)

    batcher: Batcher[int, int] = Batcher(run, executor, LIMITS)
    one, two = await submit(batcher, 1, 2)
    with pytest.raises(Draining):
        await asyncio.wait_for(one, 2)
    assert await asyncio.wait_for(two, 2) == 2


async def test_a_caller_cancelled_while_waiting_takes_no_lane(device: Device, batcher: Batcher[int, int]) -> None:
    first = await occupy(device, batcher)
    one, two, three = await submit(batcher, 1, 2, 3)
    two.cancel()
    await asyncio.sleep(0)
    assert batcher.waiting_lanes == 2
    device.release()
    assert list(await asyncio.gather(first, one, three)) == [0, 2, 6]
    assert device.batches[1:] == [("a", [1, 3])]


async def test_a_caller_cancelled_while_its_batch_runs_does_not_strand_its_batch_mates(device: Device, batcher: Batcher[int, int]) -> None:
    device.hold()
    one, two, three = await submit(batcher, 1, 2, 3)
    await asyncio.to_thread(device.is_busy.wait, 5)
    two.cancel()
    device.release()
    assert list(await asyncio.wait_for(asyncio.gather(one, three), 2)) == [2, 6]
    assert device.batches == [("a", [1, 2, 3])]
    assert two.cancelled()
    assert await batcher.submit(5, "a") == 10


async def test_only_the_guilty_lane_of_a_failing_batch_fails(device: Device, batcher: Batcher[int, int]) -> None:
    first = await occupy(device, batcher)
    calls = await submit(batcher, 1, -1, 3, 4)
    device.release()
    results = await asyncio.gather(first, *calls, return_exceptions=True)
    assert [results[i] for i in (0, 1, 3, 4)] == [0, 2, 6, 8]
    assert isinstance(results[2], ValueError)


async def test_a_lane_may_end_with_an_error_of_its_own_without_a_second_run(device: Device, batcher: Batcher[int, int]) -> None:
    first = await occupy(device, batcher)
    calls = await submit(batcher, 1, -2, 3)
    device.release()
    results = await asyncio.gather(first, *calls, return_exceptions=True)
    assert isinstance(results[2], KeyError)
    assert [results[1], results[3]] == [2, 6]
    assert len(device.batches) == 2


async def test_a_device_without_room_for_a_batch_serves_its_halves(device: Device, batcher: Batcher[int, int]) -> None:
    device.room = 2
    first = await occupy(device, batcher)
    calls = await submit(batcher, 1, 2, 3, 4)
    device.release()
    assert await asyncio.gather(first, *calls) == [0, 2, 4, 6, 8]
    assert device.batches[1:] == [("a", [1, 2, 3, 4]), ("a", [1, 2]), ("a", [3, 4])]


async def test_overload_is_refused_and_ends_when_there_is_room_again(device: Device, batcher: Batcher[int, int]) -> None:
    first = await occupy(device, batcher)
    calls = await submit(batcher, *range(1, 9))
    with pytest.raises(Overloaded, match="8 lanes are waiting"):
        await batcher.submit(9, "a")
    device.release()
    assert await asyncio.gather(first, *calls) == [2 * n for n in range(9)]
    assert await batcher.submit(9, "a") == 18


async def test_a_result_of_the_wrong_size_fails_loudly_for_its_whole_batch(device: Device, batcher: Batcher[int, int]) -> None:
    first = await occupy(device, batcher)
    calls = await submit(batcher, 1, 2, 3, bucket="short")
    device.release()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, WrongSizedResult) and "3 lanes" in str(result) and "2 results" in str(result) for result in results)
    assert await first == 0
    assert await batcher.submit(1, "a") == 2


async def test_close_strands_nobody(device: Device, batcher: Batcher[int, int]) -> None:
    first = await occupy(device, batcher)
    calls = await submit(batcher, 1, 2)
    closing = asyncio.create_task(batcher.close())
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 2)
    assert all(isinstance(result, Draining) for result in results)
    assert not closing.done()
    device.release()
    await asyncio.wait_for(closing, 2)
    assert await first == 0
    with pytest.raises(Draining):
        await batcher.submit(3, "a")


async def test_an_executor_that_is_gone_fails_every_waiting_call(device: Device, executor: ThreadPoolExecutor) -> None:
    batcher = Batcher(device.run, executor, LIMITS)
    executor.shutdown()
    calls = await submit(batcher, 1, 2)
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 2)
    assert all(isinstance(result, RuntimeError) for result in results)
