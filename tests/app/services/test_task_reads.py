"""Tasks are read together, and nobody is told what was true before they asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from app.db import tasks
from app.db.tasks import FoundTask
from app.errors import NotFound, Unavailable
from app.services.task_reads import read_task
from tests.app.db.test_group_commit import Busy
from tests.app.services.world import ANN, BOB, World, new_task


async def make_tasks(world: World, count: int) -> list[str]:
    """Ids of Ann's tasks, none of them equal to another."""
    return [(await world.tasks.create(ANN, new_task(name=f"task {number}")))[0].id for number in range(count)]


def start(world: World, task_id: str) -> asyncio.Task[FoundTask]:
    return asyncio.create_task(read_task(world.database, ANN, task_id))


async def test_tasks_that_are_asked_for_during_a_read_are_found_by_the_next(world: World) -> None:
    ids = await make_tasks(world, 4)
    async with Busy(world.database, reads=True):
        asked = [start(world, task_id) for task_id in [*ids, ids[1]]]
    found = await asyncio.gather(*asked)
    assert [read.task.id for read in found] == [*ids, ids[1]]
    assert {read.current for read in found} == {(await world.initializers.get("protonet")).ref}


async def test_a_task_is_found_as_it_is_after_it_was_asked_for(world: World) -> None:
    (task_id,) = await make_tasks(world, 1)
    async with Busy(world.database, reads=True):
        asked = start(world, task_id)
        await world.tasks.delete(ANN, task_id)
    with pytest.raises(NotFound):
        await asked


async def test_tasks_are_read_by_one_statement_and_so_as_they_are_at_one_moment(world: World) -> None:
    ids, statements = await make_tasks(world, 3), list[str]()
    event.listen(world.database._reading._engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    async with Busy(world.database, reads=True):
        asked = [start(world, task_id) for task_id in ids]
    await asyncio.gather(*asked)
    assert [statement.partition(" ")[0] for statement in statements] == ["SELECT"]


async def test_another_tenant_finds_nothing_in_a_shared_read(world: World) -> None:
    (task_id,) = await make_tasks(world, 1)
    async with Busy(world.database, reads=True):
        asked = [asyncio.create_task(read_task(world.database, caller, task_id)) for caller in (ANN, BOB)]
    mine, other = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(mine, FoundTask)
    assert mine.task.id == task_id
    assert isinstance(other, NotFound)


async def test_a_caller_that_leaves_harms_nobody_who_waits_for_the_same_task(world: World) -> None:
    (task_id,) = await make_tasks(world, 1)
    async with Busy(world.database, reads=True):
        leaving, staying = start(world, task_id), start(world, task_id)
        await asyncio.sleep(0.01)
        leaving.cancel()
    assert (await staying).task.id == task_id


async def test_a_database_that_is_away_fails_those_who_wait_and_not_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await make_tasks(world, 2)

    def fail(*_: Any) -> Any:
        raise OperationalError("SELECT", {}, OSError("away"))

    with monkeypatch.context() as away:
        away.setattr(tasks, "find_all", fail)
        found = await asyncio.gather(*(start(world, task_id) for task_id in ids), return_exceptions=True)
    assert all(isinstance(fault, Unavailable) for fault in found)
    assert (await read_task(world.database, ANN, ids[0])).task.id == ids[0]
