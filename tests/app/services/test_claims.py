"""Processes that claim the same rows take turns, and each attempt is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection

from app.db.claims import Claimed, claim_all
from app.db.session import Database
from tests.app.services.world import ANN, CATS, World, new_task


def claim(connection: Connection, wanted: Sequence[tuple[str, int]]) -> Sequence[Claimed | None]:
    return claim_all(connection, wanted, datetime.now(UTC), 5)


def claim_together(connection: Connection, groups: Sequence[Sequence[tuple[str, int]]]) -> Sequence[Sequence[Claimed | None]]:
    return [claim(connection, group) for group in groups]


async def test_two_processes_that_claim_the_same_rows_count_two_attempts_of_each(world: World, database_url: str) -> None:
    keys = [((await world.tasks.create(ANN, new_task(name=f"task {i}", query=CATS)))[0].id, 1) for i in range(20)]
    other = Database(database_url)
    claims = (world.database.transact(claim_together, keys), other.transact(claim_together, keys[::-1]))
    groups = await asyncio.gather(*claims)
    await other.close()
    attempts = [sorted(each.adaptation.attempts for each in both if each) for both in zip(groups[0], groups[1][::-1], strict=True)]
    assert attempts == [[1, 2]] * len(keys)
    assert all(each is not None and each.query is not None for group in groups for each in group)


async def test_a_claim_hands_over_the_adaptation_as_it_is_stored(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    claimed = await world.database.transact(claim, (task.id, 1))
    assert claimed is not None
    assert claimed.adaptation == (await world.tasks.get(ANN, task.id)).latest
    assert claimed.query is None
    assert await world.database.transact(claim, (task.id, 2)) is None
