from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, update

from app.cache.connection import connect_redis
from app.cache.states import RedisStateCache
from app.db import adaptations, predictions, rows
from app.db.claims import claim_all
from app.db.tables import AdaptationRow
from app.domain import Adaptation, InitializerRef, Status, TaskOptions
from app.errors import AdaptationFailed, AppError, Conflict, Draining, NotFound, Overloaded
from tests.app.services.world import ANN, CATS, World, build_world, new_task
from tests.servers import RedisServer


async def status_of(world: World, task_id: str) -> tuple[Status, int]:
    latest = (await world.tasks.get(ANN, task_id)).latest
    return latest.status, latest.attempts


async def claim_and_die(world: World, task_id: str, *, revision: int = 1, ago_s: float = 0.0) -> None:
    """What a worker leaves behind that was killed while it adapted."""
    at, most = datetime.now(UTC) - timedelta(seconds=ago_s), world.settings.max_attempts

    def claim(connection: Connection, wanted: Sequence[tuple[str, int]]) -> Sequence[bool]:
        return [each is not None for each in claim_all(connection, wanted, at, most)]

    assert await world.database.transact(claim, (task_id, revision))


async def test_running_a_finished_job_again_changes_nothing(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task(query=CATS))
    await world.work()
    ready = await world.tasks.get(ANN, task.id)
    await world.adaptations.run(task.id, 1)
    assert await world.tasks.get(ANN, task.id) == ready
    assert len(world.engine.adapted) == 1


async def test_of_two_workers_with_the_same_job_one_finishes_and_the_query_set_is_answered_once(world: World, second: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task(query=CATS))
    for process in (world, second):
        process.engine.gate.clear()
    running = [asyncio.create_task(process.adaptations.run(task.id, 1)) for process in (world, second)]
    await asyncio.sleep(0.1)
    for process in (world, second):
        process.engine.gate.set()
    await asyncio.gather(*running)
    assert [len(world.engine.adapted), len(second.engine.adapted)] == [1, 1]
    assert (await status_of(world, task.id))[0] is Status.READY
    assert len((await world.predictions.list(ANN, task.id)).rows) == 1


async def test_a_killed_workers_job_is_claimed_again_and_finishes(world: World, second: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    await claim_and_die(world, task.id)
    await second.adaptations.run(task.id, 1)
    assert await status_of(second, task.id) == (Status.READY, 2)


async def test_a_transaction_that_dies_between_finish_and_commit_leaves_the_row_to_the_next_worker(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task(query=CATS))
    await claim_and_die(world, task.id)

    def die_before_the_commit(connection: Connection, finishes: Sequence[adaptations.Finish]) -> Sequence[None]:
        assert adaptations.finish_all(connection, finishes)[0].won
        raise NotFound("killed")

    finished = replace(task.latest, finished_at=datetime.now(UTC))
    with pytest.raises(NotFound):
        await world.database.transact(die_before_the_commit, adaptations.Finish(finished, rows.finish_to_values(finished, None, None)))
    assert (await status_of(world, task.id))[0] is Status.ADAPTING
    await world.adaptations.run(task.id, 1)
    assert await status_of(world, task.id) == (Status.READY, 2)
    assert len((await world.predictions.list(ANN, task.id)).rows) == 1


async def finish_together(world: World, finished: Sequence[Adaptation]) -> list[bool]:
    """Which of them won, of one transaction."""
    finishes = [adaptations.Finish(each, rows.finish_to_values(each, None, None)) for each in finished]
    async with world.database.write() as session:
        return [each.won for each in await (await session.connection()).run_sync(adaptations.finish_all, finishes)]


async def test_of_adaptations_that_are_finished_in_one_transaction_each_ends_as_it_would_alone(world: World) -> None:
    made = [(await world.tasks.create(ANN, new_task(name=str(i))))[0] for i in range(4)]
    alive, deleted, settled, queued = made
    for task in (alive, deleted, settled):
        await claim_and_die(world, task.id)
    await world.tasks.delete(ANN, deleted.id)
    finished = [replace(task.latest, finished_at=datetime.now(UTC), accuracy=(0.5,)) for task in made]
    elsewhere = replace(finished[2], initializer=InitializerRef("protonet", 9))
    assert await finish_together(world, [finished[0], finished[1], elsewhere, finished[3], finished[0]]) == [
        True,
        False,
        False,
        False,
        False,
    ]
    ended = [(await world.tasks.get(ANN, task.id)).latest for task in (alive, settled, queued)]
    assert [each.status for each in ended] == [Status.READY, Status.ADAPTING, Status.QUEUED]
    assert ended[0].accuracy == (0.5,)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
async def test_of_two_revisions_that_are_finished_in_one_transaction_the_newer_one_serves(world: World, order: tuple[int, int]) -> None:
    first, _ = await world.tasks.create(ANN, new_task())
    revised = await world.tasks.revise(ANN, first.id, options=TaskOptions(steps=3))
    for revision in (1, 2):
        await claim_and_die(world, first.id, revision=revision)
    finished = {task.latest.revision: replace(task.latest, finished_at=datetime.now(UTC)) for task in (first, revised)}
    assert await finish_together(world, [finished[revision] for revision in order]) == [True, True]
    task = await world.tasks.get(ANN, first.id)
    assert task.serving is not None
    assert task.serving.revision == 2


async def test_a_job_that_was_started_too_often_is_failed_as_poison_and_an_equal_request_tries_anew(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    for _ in range(world.settings.max_attempts):
        await claim_and_die(world, task.id, ago_s=60)
    await world.adaptations.run(task.id, 1)
    failed = await world.tasks.get(ANN, task.id)
    assert (failed.latest.status, failed.latest.error_code) == (Status.FAILED, "attempts_exhausted")
    assert world.engine.adapted == []
    again, is_new = await world.tasks.create(ANN, new_task())
    assert is_new
    assert again.id != task.id


async def test_the_last_attempt_is_left_alone_while_it_may_be_alive_and_failed_by_the_sweeper_afterwards(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    for _ in range(world.settings.max_attempts):
        await claim_and_die(world, task.id)
    await world.adaptations.run(task.id, 1)
    await world.adaptations.sweep(older_than_s=0)
    assert (await status_of(world, task.id))[0] is Status.ADAPTING
    async with world.database.write() as session:
        await session.execute(update(AdaptationRow).values(started_at=datetime.now(UTC) - timedelta(seconds=31)))
    await world.adaptations.sweep()
    assert (await status_of(world, task.id))[0] is Status.FAILED


async def test_a_fault_of_the_adaptation_fails_the_task_with_its_code(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    world.engine.fault = AdaptationFailed("the loss is not finite")
    await world.work()
    failed = (await world.tasks.get(ANN, task.id)).latest
    assert (failed.status, failed.error_code, failed.error_detail) == (Status.FAILED, "adaptation_failed", "the loss is not finite")
    with pytest.raises(Conflict) as caught:
        await world.predict(ANN, task.id, CATS)
    assert caught.value.code == "adaptation_failed"


async def test_a_crash_fails_the_task_and_does_not_tell_the_client_its_text(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    world.engine.fault = ZeroDivisionError("secret path")
    await world.work()
    failed = (await world.tasks.get(ANN, task.id)).latest
    assert (failed.status, failed.error_code) == (Status.FAILED, "internal_error")
    assert "secret" not in (failed.error_detail or "")


async def test_a_failed_revision_leaves_the_serving_one_answering(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    await world.work()
    await world.tasks.revise(ANN, task.id, add=new_task().support)
    world.engine.fault = AdaptationFailed("no")
    await world.work()
    assert (await world.tasks.get(ANN, task.id)).latest.status is Status.FAILED
    assert (await world.predict(ANN, task.id, CATS)).revision == 1


@pytest.mark.parametrize("fault", [Overloaded("full"), Draining("stopping")])
async def test_a_job_the_engine_would_not_take_is_given_back_uncounted(world: World, fault: AppError) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    world.engine.fault = fault
    with pytest.raises(type(fault)):
        await world.adaptations.run(task.id, 1)
    assert await status_of(world, task.id) == (Status.QUEUED, 0)


async def test_a_cancelled_job_is_given_back_uncounted(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    world.engine.gate.clear()
    running = asyncio.create_task(world.adaptations.run(task.id, 1))
    await asyncio.wait_for(world.engine.asked.wait(), 5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await status_of(world, task.id) == (Status.QUEUED, 0)


async def test_giving_back_does_not_take_the_row_from_a_worker_that_claimed_it_since(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    await claim_and_die(world, task.id)
    await claim_and_die(world, task.id)
    async with world.database.write() as session:
        assert not await adaptations.release(session, task.id, 1, attempt=1)
    assert await status_of(world, task.id) == (Status.ADAPTING, 2)


async def test_a_released_job_is_queued_and_a_ready_one_stays_ready(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    await claim_and_die(world, task.id)
    await world.adaptations.release(task.id, 1)
    assert await status_of(world, task.id) == (Status.QUEUED, 0)
    await world.adaptations.run(task.id, 1)
    await world.adaptations.release(task.id, 1)
    assert (await status_of(world, task.id))[0] is Status.READY


async def test_a_task_deleted_while_it_adapts_ends_without_a_trace(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task(query=CATS))
    world.engine.gate.clear()
    running = asyncio.create_task(world.work())
    await asyncio.wait_for(world.engine.asked.wait(), 5)
    await world.tasks.delete(ANN, task.id)
    world.engine.gate.set()
    await running
    assert world.engine.adapted
    assert world.engine.states == {}
    assert await world.cache.get(world.engine.adapted[0]) is None
    async with world.database.read() as session:
        assert (await predictions.list_predictions(session, task.id, after=None, limit=5)).rows == ()


async def test_deletes_and_finishes_at_the_same_moment_do_not_lock_each_other_out(world: World) -> None:
    made = [await world.tasks.create(ANN, new_task(name=f"n{i}", query=CATS)) for i in range(20)]

    async def delete_soon(task_id: str) -> None:
        await asyncio.sleep(0.01)
        await world.tasks.delete(ANN, task_id)

    await asyncio.gather(world.work(), *(delete_soon(task.id) for task, _ in made))
    assert (await world.tasks.list(ANN)).rows == ()
    assert world.engine.states == {}


async def test_the_sweeper_enqueues_old_unfinished_rows_only(world: World) -> None:
    lost, _ = await world.tasks.create(ANN, new_task(name="lost"))
    died, _ = await world.tasks.create(ANN, new_task(name="died"))
    await claim_and_die(world, died.id, ago_s=60)
    async with world.database.write() as session:
        old = datetime.now(UTC) - timedelta(seconds=60)
        await session.execute(update(AdaptationRow).where(AdaptationRow.task_id == lost.id).values(created_at=old))
    ready, _ = await world.tasks.create(ANN, new_task(name="ready"))
    await world.adaptations.run(ready.id, 1)
    fresh, _ = await world.tasks.create(ANN, new_task(name="fresh"))
    world.queue.waiting.clear()
    assert await world.adaptations.sweep() == 2
    assert {task_id for task_id, _ in world.queue.waiting} == {lost.id, died.id}
    assert await world.adaptations.sweep(older_than_s=0) == 3
    assert (fresh.id, 1) in world.queue.waiting


async def test_an_adaptation_becomes_ready_while_redis_is_away(world: World, private_redis: RedisServer) -> None:
    cache = RedisStateCache(connect_redis(private_redis.url), ttl_s=60)
    process = build_world(world.database, world.folder, cache=cache)
    await process.initializers.bootstrap()
    task, _ = await process.tasks.create(ANN, new_task(query=CATS))
    private_redis.kill()
    await process.work()
    assert (await status_of(process, task.id))[0] is Status.READY
    assert (await process.predict(ANN, task.id, CATS)).predictions[0].label == "cat"  # it is on the device
    process.engine.states.clear()
    assert (await process.predict(ANN, task.id, CATS)).predictions[0].label == "cat"  # adapted again
    await cache.close()


async def test_sixty_jobs_taken_over_from_a_dead_worker_all_end_ready_and_answered_once(world: World, second: World) -> None:
    made = [await world.tasks.create(ANN, new_task(name=f"n{i}", query=CATS)) for i in range(60)]
    world.engine.gate.clear()
    running = asyncio.create_task(world.work())
    await asyncio.sleep(0.3)
    # The first worker's device stands still for good, as if killed; its rows stay claimed, and the second takes everything over.
    assert await second.adaptations.sweep(older_than_s=0) == 60
    await second.work()
    world.engine.gate.set()  # a worker thought dead that was only slow: it must not finish anything twice
    await running
    for task, _ in made:
        assert (await status_of(second, task.id))[0] is Status.READY
        assert len((await second.predictions.list(ANN, task.id)).rows) == 1
