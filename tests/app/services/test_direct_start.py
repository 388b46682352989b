from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.domain import Caller, Status, Task
from app.errors import AdaptationFailed, NotFound, Overloaded
from tests.app.services.world import ANN, CATS, World, build_world, new_task, write_initializer

BOB = Caller("key_bob", frozenset({"user"}))


@pytest.fixture
async def embedded(world: World) -> AsyncIterator[World]:
    """A process that has its worker beside it."""
    world.direct.open()
    yield world
    world.engine.gate.set()
    await world.direct.drain(1)


async def wait(world: World, task: Task, timeout_s: float = 5) -> Task:
    return await world.tasks.wait(ANN, task.id, task.latest.revision, timeout_s)


async def test_a_task_is_adapted_where_it_was_accepted_without_the_queue(embedded: World) -> None:
    task, is_new = await embedded.tasks.create(ANN, new_task(query=CATS))
    ready = await wait(embedded, task)
    assert is_new
    assert (ready.latest.status, ready.latest.attempts) == (Status.READY, 1)
    assert not embedded.queue.waiting
    assert len((await embedded.predictions.list(ANN, task.id)).rows) == 1
    assert (await embedded.predict(ANN, task.id, CATS)).predictions[0].label == "cat"


async def test_what_is_handed_over_is_what_the_row_says(embedded: World) -> None:
    task, _ = await embedded.tasks.create(ANN, new_task(name="n", metadata={"a": [1, None]}, ttl_s=60, query=CATS))
    handed = await wait(embedded, task)
    assert handed == await embedded.tasks.get(ANN, task.id)


async def test_what_was_accepted_is_what_the_row_says(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task(name="n", metadata={"a": [1, None]}))
    assert task == await world.tasks.get(ANN, task.id)


async def test_waiting_for_another_tenants_task_finds_nothing(embedded: World) -> None:
    embedded.engine.gate.clear()
    task, _ = await embedded.tasks.create(ANN, new_task())
    waiting = asyncio.create_task(embedded.tasks.wait(BOB, task.id, 1, 5))
    await asyncio.sleep(0.05)
    embedded.engine.gate.set()
    with pytest.raises(NotFound):
        await waiting


async def test_a_wait_that_is_over_shows_the_task_as_it_stands(embedded: World) -> None:
    embedded.engine.gate.clear()
    task, _ = await embedded.tasks.create(ANN, new_task())
    assert (await wait(embedded, task, 0.05)).latest.status is Status.ADAPTING
    embedded.engine.gate.set()
    assert (await wait(embedded, task)).latest.status is Status.READY


async def test_a_failure_is_told_to_who_waits(embedded: World) -> None:
    embedded.engine.fault = AdaptationFailed("the loss is not finite")
    task, _ = await embedded.tasks.create(ANN, new_task())
    failed = await wait(embedded, task)
    assert (failed.latest.status, failed.latest.error_code) == (Status.FAILED, "adaptation_failed")


async def test_what_the_engine_would_not_take_goes_over_the_queue(embedded: World) -> None:
    embedded.engine.fault = Overloaded("full")
    task, _ = await embedded.tasks.create(ANN, new_task())
    assert (await wait(embedded, task, 0.1)).latest.attempts == 0
    assert list(embedded.queue.waiting) == [(task.id, 1)]
    embedded.engine.fault = None
    await embedded.work()
    assert (await wait(embedded, task)).latest.status is Status.READY


async def test_draining_gives_back_what_runs_and_begins_nothing_more(embedded: World) -> None:
    embedded.engine.gate.clear()
    task, _ = await embedded.tasks.create(ANN, new_task())
    await asyncio.wait_for(embedded.engine.asked.wait(), 5)
    await embedded.direct.drain(0.05)
    stopped = (await embedded.tasks.get(ANN, task.id)).latest
    assert (stopped.status, stopped.attempts) == (Status.QUEUED, 0)
    later, _ = await embedded.tasks.create(ANN, new_task(name="later"))
    assert later.latest.status is Status.QUEUED
    assert (later.id, 1) in embedded.queue.waiting


async def test_a_process_that_died_leaves_a_row_that_the_next_one_finishes(embedded: World, second: World) -> None:
    embedded.engine.gate.clear()  # for good, as if killed
    task, _ = await embedded.tasks.create(ANN, new_task())
    assert await second.adaptations.sweep(older_than_s=0) == 1
    await second.work()
    ready = (await second.tasks.get(ANN, task.id)).latest
    assert (ready.status, ready.attempts) == (Status.READY, 2)


async def test_a_sweep_that_is_early_does_not_adapt_twice(embedded: World) -> None:
    embedded.engine.gate.clear()
    task, _ = await embedded.tasks.create(ANN, new_task())
    await asyncio.wait_for(embedded.engine.asked.wait(), 5)
    await embedded.adaptations.sweep(older_than_s=0)
    await embedded.work()
    embedded.engine.gate.set()
    assert (await wait(embedded, task)).latest.attempts == 1
    assert len(embedded.engine.adapted) == 1


async def test_beyond_the_limit_tasks_wait_in_the_queue(world: World) -> None:
    narrow = build_world(world.database, world.folder, worker_concurrency=2)
    await narrow.initializers.bootstrap()
    narrow.direct.open()
    narrow.engine.gate.clear()
    made = [await narrow.tasks.create(ANN, new_task(name=f"n{i}")) for i in range(3)]
    assert [task.latest.status for task, _ in made] == [Status.ADAPTING, Status.ADAPTING, Status.QUEUED]
    narrow.engine.gate.set()
    await narrow.direct.drain(5)


async def test_a_version_that_another_process_has_made_current_is_used_at_once(world: World, second: World) -> None:
    write_initializer(world.folder, "protonet", gain=2.0)
    await second.initializers.reload("protonet")
    task, _ = await world.tasks.create(ANN, new_task())
    assert task.latest.initializer.version == 2


async def test_equal_requests_at_once_make_one_task(embedded: World) -> None:
    made = await asyncio.gather(*(embedded.tasks.create(ANN, new_task()) for _ in range(10)))
    assert len({task.id for task, _ in made}) == 1
    assert sum(is_new for _, is_new in made) == 1
    assert len(embedded.engine.adapted) <= 1
