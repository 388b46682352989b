from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import embeddings
from app.db.tables import AdaptationRow
from app.domain import SupportSet
from app.errors import Conflict, NotFound
from app.services import similarity
from app.services.similarity import squared_distances
from tests.app.services.world import ANN, BOB, World, new_task, support, write_initializer


async def ready(world: World, name: str, at: float, **changes: object) -> str:
    """A ready task of Ann's around `at`."""
    task, _ = await world.tasks.create(ANN, new_task(name=name, support=support(at=at), **changes))
    await world.work()
    return task.id


async def names_near(world: World, task_id: str, **options: int) -> list[str | None]:
    return [near.task.name for near in (await world.similarity.similar(ANN, task_id, **options)).neighbours]


async def test_the_nearest_tasks_come_first_and_the_parts_add_up(world: World) -> None:
    mine = await ready(world, "mine", 1.0)
    for name, at in (("far", 9.0), ("near", 1.5), ("equal", 1.0), ("between", 4.0)):
        await ready(world, name, at)
    found = await world.similarity.similar(ANN, mine)
    assert [near.task.name for near in found.neighbours] == ["equal", "near", "between", "far"]
    assert (found.compared, found.has_more) == (4, False)
    assert found.neighbours[0].distance == 0
    for near in found.neighbours:
        assert set(near.parts) == {"centre", "spread"}
        assert near.distance == pytest.approx(math.hypot(*near.parts.values()))
    assert await names_near(world, mine, limit=2) == ["equal", "near"]


async def test_a_distance_is_that_of_the_vectors(world: World) -> None:
    mine, _ = await ready(world, "mine", 1.0), await ready(world, "other", 3.0)
    [near] = (await world.similarity.similar(ANN, mine)).neighbours
    # Cats at (at, 0) and dogs at (0, at): mean and standard deviation are at / 2 in both features.
    assert near.parts == pytest.approx({"centre": np.sqrt(2), "spread": np.sqrt(2)})


async def test_only_ready_tasks_of_the_caller_on_the_same_version_are_compared(world: World) -> None:
    write_initializer(world.folder, "protonet-other")
    await world.initializers.bootstrap()
    mine = await ready(world, "mine", 1.0)
    await ready(world, "other initializer", 1.0, initializer="protonet-other")
    await world.tasks.create(BOB, new_task(name="Bob's"))
    await world.work()
    deleted = await ready(world, "deleted", 1.0)
    await world.tasks.delete(ANN, deleted)
    await ready(world, "mine too", 2.0)
    await world.tasks.create(ANN, new_task(name="queued"))
    assert await names_near(world, mine) == ["mine too"]
    world.queue.waiting.clear()
    write_initializer(world.folder, gain=2.0)
    await world.initializers.reload("protonet")
    await ready(world, "newer version", 1.0)
    assert await names_near(world, mine) == ["mine too"]


async def test_a_revision_is_compared_once_it_serves(world: World) -> None:
    mine, other = await ready(world, "mine", 1.0), await ready(world, "other", 1.0)
    await world.tasks.revise(ANN, other, add=support(at=5.0))
    assert [near.distance for near in (await world.similarity.similar(ANN, mine)).neighbours] == [0.0]
    await world.work()
    [near] = (await world.similarity.similar(ANN, mine)).neighbours
    assert near.distance > 1
    assert near.task.serving is not None
    assert near.task.serving.revision == 2


async def test_regressions_are_compared_by_their_labels_too(world: World) -> None:
    inputs = np.array([[0, 1], [1, 1]], np.float32)
    ids = []
    for slope in (1.0, 1.5, -3.0):
        task, _ = await world.tasks.create(ANN, new_task(initializer="sine", name=str(slope), support=SupportSet(inputs, (0.0, slope))))
        ids.append(task.id)
    await world.work()
    found = (await world.similarity.similar(ANN, ids[0])).neighbours
    assert [near.task.name for near in found] == ["1.5", "-3.0"]
    assert found[0].parts == pytest.approx({"centre": 0.0, "spread": 0.0, "relation": np.hypot(0.25, 0.25)})


async def test_other_peoples_tasks_and_unfinished_ones_have_no_neighbours(world: World) -> None:
    mine = await ready(world, "mine", 1.0)
    with pytest.raises(NotFound):
        await world.similarity.similar(BOB, mine)
    task, _ = await world.tasks.create(ANN, new_task(name="queued"))
    with pytest.raises(Conflict) as caught:
        await world.similarity.similar(ANN, task.id)
    assert (caught.value.code, caught.value.retry_after_s) == ("task_not_ready", 1)


async def test_a_task_without_an_embedding_says_why_and_what_to_do(world: World) -> None:
    mine = await ready(world, "mine", 1.0)
    async with world.database.write() as session:
        await session.execute(update(AdaptationRow).values(embedding=None))  # as a row is that is older than embeddings
    with pytest.raises(Conflict, match="adapt the task again") as caught:
        await world.similarity.similar(ANN, mine)
    assert caught.value.code == "task_not_embedded"
    await world.tasks.revise(ANN, mine, options=new_task().options)
    await world.work()
    assert (await world.similarity.similar(ANN, mine)).neighbours == ()


async def test_a_learner_without_an_embedding_says_so(world: World) -> None:
    world.engine.able = frozenset()
    mine = await ready(world, "mine", 1.0)
    with pytest.raises(Conflict, match="protonet@1 embeds no tasks") as caught:
        await world.similarity.similar(ANN, mine)
    assert caught.value.code == "not_supported"


async def test_more_tasks_than_are_compared_leave_the_oldest_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_PAGE", 2)
    oldest, *_ = [await ready(world, f"n{i}", 1.0 + i) for i in range(6)]
    mine = await ready(world, "mine", 1.0)
    assert (await names_near(world, mine, limit=1), len(await names_near(world, mine))) == (["n0"], 6)
    monkeypatch.setattr(similarity, "MAX_COMPARED", 4)
    found = await world.similarity.similar(ANN, mine)
    assert found.has_more
    assert oldest not in [near.task.id for near in found.neighbours]


async def test_many_scans_at_once_leave_the_readers_to_others_between_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_PAGE", 1)
    made = [await ready(world, f"n{i}", 1.0 + i) for i in range(4)]
    read, open_pages, pages_per_session = world.database.read, 0, []

    @asynccontextmanager
    async def counted() -> AsyncIterator[AsyncSession]:
        nonlocal open_pages
        before, open_pages = open_pages, 0
        async with read() as session:
            yield session
        pages_per_session.append(open_pages)
        open_pages = before

    async def counting(session: AsyncSession, *args: Any) -> dict[str, bytes]:
        nonlocal open_pages
        open_pages += 1
        return await read_page(session, *args)

    read_page = embeddings.read_embeddings
    monkeypatch.setattr(world.database, "read", counted)
    monkeypatch.setattr(embeddings, "read_embeddings", counting)
    assert len(await names_near(world, made[0])) == 3
    assert (max(pages_per_session), sum(pages_per_session)) == (1, 3)


async def test_a_task_that_another_version_serves_since_the_scan_began_is_left_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, moved, same = [await ready(world, name, 1.0) for name in ("mine", "moved", "same")]
    list_embedded = embeddings.list_embedded

    async def list_and_move(*args: Any) -> Sequence[str]:
        listed = await list_embedded(*args)
        write_initializer(world.folder, gain=2.0)
        await world.initializers.reload("protonet")
        await world.tasks.revise(ANN, moved, add=support(at=1.0))
        await world.work()
        return listed

    monkeypatch.setattr(embeddings, "list_embedded", list_and_move)
    found = await world.similarity.similar(ANN, mine)
    assert [near.task.id for near in found.neighbours] == [same]


def test_distances_are_summed_in_double_precision() -> None:
    stored = np.array([[1e8, 1, 1, 1], [1e8, 0, 0, 0]], "<f4").tobytes()
    squares = squared_distances(np.array([1e8, 0, 0, 0], np.float32), stored, 2)
    assert squares.tolist() == [[1, 2], [0, 0]]
