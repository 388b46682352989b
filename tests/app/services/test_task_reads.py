"""What serves many tasks is read together, and nobody is told what was true before they asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.domain import Caller
from app.errors import NotFound, Unavailable
from app.services.task_reads import TaskReads
from tests.app.services.world import ANN, BOB, World, new_task


class Gate:
    """Reads of the database that stand still while it is shut; `begun` counts them."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = asyncio.Event()
        self.begun = 0
        self.fault: Exception | None = None
        self._read = world.database.read
        monkeypatch.setattr(world.database, "read", self.read)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        self.begun += 1
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        async with self._read() as session:
            yield session


async def make_tasks(world: World, count: int) -> list[str]:
    """Ids of Ann's tasks, none of them equal to another."""
    return [(await world.tasks.create(ANN, new_task(name=f"task {number}")))[0].id for number in range(count)]


async def start(reads: TaskReads, caller: Caller, task_id: str) -> asyncio.Task[str]:
    """A read that has been asked for."""

    async def read() -> str:
        return (await reads.read(caller, task_id)).task.id

    asked = asyncio.create_task(read())
    await asyncio.sleep(0)
    return asked


async def test_what_is_asked_for_during_a_read_shares_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, reads = await make_tasks(world, 4), TaskReads(world.database)
    gate = Gate(world, monkeypatch)
    first = await start(reads, ANN, ids[0])
    await asyncio.sleep(0)
    others = [await start(reads, ANN, task_id) for task_id in [*ids, ids[1]]]
    gate.open.set()
    assert await asyncio.gather(first, *others) == [ids[0], *ids, ids[1]]
    assert gate.begun == 2


async def test_a_read_begins_after_it_was_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (task_id,), reads = await make_tasks(world, 1), TaskReads(world.database)
    gate = Gate(world, monkeypatch)
    before = await start(reads, ANN, task_id)
    await asyncio.sleep(0)
    after = await start(reads, ANN, task_id)
    gate.open.set()
    await asyncio.gather(before, after)
    assert gate.begun == 2


async def test_another_tenant_finds_nothing_in_a_shared_read(world: World) -> None:
    (task_id,), reads = await make_tasks(world, 1), TaskReads(world.database)
    mine, other = await asyncio.gather(reads.read(ANN, task_id), reads.read(BOB, task_id), return_exceptions=True)
    assert not isinstance(mine, BaseException)
    assert mine.task.id == task_id
    assert isinstance(other, NotFound)


async def test_a_caller_that_leaves_harms_nobody_who_waits_for_the_same_task(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (task_id,), reads = await make_tasks(world, 1), TaskReads(world.database)
    gate = Gate(world, monkeypatch)
    leaving, staying = await start(reads, ANN, task_id), await start(reads, ANN, task_id)
    leaving.cancel()
    gate.open.set()
    assert await staying == task_id


async def test_a_database_that_is_away_fails_those_who_wait_and_not_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, reads = await make_tasks(world, 2), TaskReads(world.database)
    gate = Gate(world, monkeypatch)
    gate.open.set()
    gate.fault = Unavailable("away", code="database_unavailable")
    found = await asyncio.gather(*(reads.read(ANN, task_id) for task_id in ids), return_exceptions=True)
    assert all(isinstance(fault, Unavailable) for fault in found)
    gate.fault = None
    assert (await reads.read(ANN, ids[0])).task.id == ids[0]
