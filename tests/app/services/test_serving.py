"""What is remembered of a serving adaptation never outlives the task, its owner, its revision or its version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.cache.signals import LocalSignals
from app.db.session import Database
from app.errors import NotFound
from app.services import serving
from tests.app.services.world import ANN, BOB, CATS, World, build_world, new_task, write_initializer


async def ready_task(world: World, **changes: Any) -> str:
    task, _ = await world.tasks.create(ANN, new_task(**changes))
    await world.work()
    return task.id


async def revision_of(world: World, task_id: str) -> int:
    return (await world.predict(ANN, task_id, CATS)).revision


@pytest.fixture
def reads(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each read of what serves a task."""
    begun: list[str] = []
    monkeypatch.setattr(world.database, "fetch", _counted(world.database.fetch, begun))
    return begun


def _counted(fetch: Callable[..., object], begun: list[str]) -> Callable[..., object]:
    def counted(*asked: object) -> object:
        begun.append("read")
        return fetch(*asked)

    return counted


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that have passed for what is remembered: none, however slow the machine is, unless a test says so."""
    now_s = [0.0]
    monkeypatch.setattr(serving, "monotonic", lambda: now_s[0])
    return now_s


@pytest.fixture
async def beside(world: World) -> World:
    """Another process over the same database, cache and signals."""
    other = build_world(world.database, world.folder, cache=world.cache, signals=world.signals)
    await other.initializers.bootstrap()
    return other


async def test_a_second_prediction_reads_nothing(world: World, reads: list[str]) -> None:
    task_id = await ready_task(world)
    expected = await world.predict(ANN, task_id, CATS)
    reads.clear()
    answered = await world.predict(ANN, task_id, CATS)
    assert (answered.predictions, answered.revision, answered.initializer) == (expected.predictions, 1, expected.initializer)
    assert reads == []


async def test_what_serves_is_read_again_after_a_second(world: World, reads: list[str], clock: list[float]) -> None:
    task_id = await ready_task(world)
    await revision_of(world, task_id)
    reads.clear()
    clock[0] = 0.4
    await revision_of(world, task_id)
    assert reads == []
    clock[0] = 1.1
    await revision_of(world, task_id)
    assert reads == ["read"]


async def test_what_serves_is_read_again_before_its_second_is_over_and_nobody_waits_for_it(
    world: World, reads: list[str], clock: list[float]
) -> None:
    task_id = await ready_task(world)
    await world.predict(ANN, task_id, CATS)
    reads.clear()
    clock[0] = 0.6
    await asyncio.gather(*(world.predict(ANN, task_id, CATS) for _ in range(3)))
    await asyncio.wait(world.predictions._refreshes._flights.values())
    assert reads == ["read"]
    clock[0] = 1.05  # the first read is forgotten, the second one not yet due
    assert await revision_of(world, task_id) == 1
    assert reads == ["read"]


async def test_a_task_deleted_elsewhere_is_gone_after_its_second_although_it_was_to_be_read_again(
    world: World, second: World, clock: list[float]
) -> None:
    task_id = await ready_task(world)
    await world.predict(ANN, task_id, CATS)
    await second.tasks.delete(ANN, task_id)
    clock[0] = 0.6
    await world.predict(ANN, task_id, CATS)
    await asyncio.wait(world.predictions._refreshes._flights.values())
    clock[0] = 1.05
    with pytest.raises(NotFound):
        await world.predict(ANN, task_id, CATS)


async def test_a_deleted_task_is_forgotten_before_the_deletion_is_answered(world: World) -> None:
    task_id = await ready_task(world)
    await world.predict(ANN, task_id, CATS)
    await world.tasks.delete(ANN, task_id)
    with pytest.raises(NotFound, match="no task"):
        await world.predictions.find_serving(ANN, task_id)


async def test_a_caller_that_leaves_during_its_deletion_leaves_no_answer_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = await ready_task(world)
    await world.predict(ANN, task_id, CATS)
    monkeypatch.setattr(world.database, "write", _leaving_after_the_commit(world.database))
    with pytest.raises(asyncio.CancelledError):
        await world.tasks.delete(ANN, task_id)
    with pytest.raises(NotFound, match="no task"):
        await world.predictions.find_serving(ANN, task_id)


def _leaving_after_the_commit(database: Database) -> Callable[[], object]:
    write = database.write

    @asynccontextmanager
    async def leaving() -> AsyncIterator[AsyncSession]:
        async with write() as session:
            yield session
        raise asyncio.CancelledError

    return leaving


async def test_a_deletion_elsewhere_is_heard(world: World, beside: World) -> None:
    task_id = await ready_task(world)
    await beside.predict(ANN, task_id, CATS)
    await world.tasks.delete(ANN, task_id)
    await asyncio.sleep(0.01)
    with pytest.raises(NotFound, match="no task"):
        await beside.predictions.find_serving(ANN, task_id)


async def test_a_deletion_whose_signal_was_lost_is_seen_within_a_second(world: World, second: World, clock: list[float]) -> None:
    task_id = await ready_task(world)
    await second.predict(ANN, task_id, CATS)
    await world.tasks.delete(ANN, task_id)
    clock[0] = 1.01
    with pytest.raises(NotFound, match="no task"):
        await second.predictions.find_serving(ANN, task_id)


async def test_another_tenant_is_told_nothing_of_a_remembered_task(world: World) -> None:
    task_id = await ready_task(world)
    await world.predict(ANN, task_id, CATS)
    with pytest.raises(NotFound, match="no task"):
        await world.predictions.find_serving(BOB, task_id)
    assert await revision_of(world, task_id) == 1


async def test_a_new_revision_answers_as_soon_as_it_is_ready(world: World) -> None:
    task_id = await ready_task(world)
    assert await revision_of(world, task_id) == 1
    await world.tasks.revise(ANN, task_id, add=new_task().support)
    assert await revision_of(world, task_id) == 1
    await world.work()
    await asyncio.sleep(0)
    assert await revision_of(world, task_id) == 2


async def test_a_revision_made_ready_elsewhere_answers_once_it_is_heard_of(world: World, beside: World) -> None:
    task_id = await ready_task(world)
    assert await revision_of(beside, task_id) == 1
    await world.tasks.revise(ANN, task_id, add=new_task().support)
    await world.work()
    await asyncio.sleep(0.01)
    assert await revision_of(beside, task_id) == 2


@pytest.mark.parametrize("how", ["get", "list"])
async def test_who_was_shown_a_revision_is_not_answered_by_an_older_one(world: World, second: World, how: str) -> None:
    task_id = await ready_task(world)
    assert await revision_of(second, task_id) == 1
    await world.tasks.revise(ANN, task_id, add=new_task().support)
    await world.work()
    assert await revision_of(second, task_id) == 1  # the signal was lost
    await (second.tasks.get(ANN, task_id) if how == "get" else second.tasks.list(ANN))
    assert await revision_of(second, task_id) == 2


async def test_after_a_reload_the_first_prediction_moves_the_task_and_says_who_answered(world: World) -> None:
    task_id = await ready_task(world)
    await world.predict(ANN, task_id, CATS)
    write_initializer(world.folder, gain=3.0)
    await world.initializers.reload("protonet")
    for _ in range(3):  # an old version that answers is not remembered: the task is moved once
        answered = await world.predict(ANN, task_id, CATS)
        assert (answered.revision, str(answered.initializer)) == (1, "protonet@1")
    assert list(world.queue.waiting) == [(task_id, 2)]
    await world.work()
    await asyncio.sleep(0)
    answered = await world.predict(ANN, task_id, CATS)
    assert (answered.revision, str(answered.initializer)) == (2, "protonet@2")


async def test_an_expired_task_is_not_answered_from_memory(world: World) -> None:
    task_id = await ready_task(world)
    await world.expire(after_s=0.4)
    await world.predict(ANN, task_id, CATS)
    await asyncio.sleep(0.4)
    with pytest.raises(NotFound, match="no task"):
        await world.predictions.find_serving(ANN, task_id)


async def test_a_read_that_a_deletion_overtook_is_not_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = await ready_task(world)
    read_serving = world.predictions._read_serving

    async def overtaken(caller: object, read_id: str) -> object:
        found = await read_serving(ANN, read_id)
        await world.tasks.delete(ANN, read_id)
        return found

    monkeypatch.setattr(world.predictions, "_read_serving", overtaken)
    await world.predictions.find_serving(ANN, task_id)
    monkeypatch.undo()
    with pytest.raises(NotFound, match="no task"):
        await world.predictions.find_serving(ANN, task_id)


async def test_an_older_read_does_not_replace_a_newer_one(world: World) -> None:
    task_id = await ready_task(world)
    memory = world.predictions._memory
    older = await world.predictions._read_serving(ANN, task_id)
    await world.tasks.revise(ANN, task_id, add=new_task().support)
    await world.work()
    await asyncio.sleep(0)
    assert await revision_of(world, task_id) == 2
    with memory.reading(task_id) as reading:
        memory.keep(reading, *older)
    assert await revision_of(world, task_id) == 2


async def test_nothing_is_answered_from_memory_while_no_signal_can_be_heard(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = await ready_task(world)
    await world.predict(ANN, task_id, CATS)
    monkeypatch.setattr(LocalSignals, "is_listening", False)
    assert world.predictions._memory.find(ANN, task_id) is None


async def test_only_so_many_tasks_are_remembered_and_no_read_is_left_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_MAX_REMEMBERED", 2)
    first, memory = await ready_task(world), world.predictions._memory
    others = []
    for name in ("b", "c"):
        task, _ = await world.tasks.create(ANN, new_task(name=name))
        others.append(task.id)
    await world.work()
    await asyncio.sleep(0)
    for task_id in (first, *others):
        await world.predict(ANN, task_id, CATS)
    assert [memory.find(ANN, task_id) is not None for task_id in (first, *others)] == [False, True, True]
    assert not memory._readings
