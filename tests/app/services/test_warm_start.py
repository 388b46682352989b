from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest

from app.db import adaptations
from app.domain import Status, SupportSet, TaskOptions, WarmStart
from app.errors import InvalidOptions, Overloaded, StateCorrupt
from app.services.rebuilding import StateSource
from app.services.warm_start import unseen
from tests.app.services.world import ANN, BOB, CATS, World, build_world, new_task, support

WARM = TaskOptions(warm_start=True)


async def ready(world: World, at: float, *, options: TaskOptions = WARM, cats: int = 2, dogs: int = 2) -> str:
    """A finished task of Ann's around `at`."""
    task, _ = await world.tasks.create(ANN, new_task(support=support(at=at, cats=cats, dogs=dogs), options=options))
    await world.work()
    assert (await world.tasks.get(ANN, task.id)).latest.status is Status.READY
    return task.id


async def report_of(world: World, task_id: str) -> WarmStart:
    report = (await world.tasks.get(ANN, task_id)).latest.warm_start
    assert report is not None
    return report


async def test_a_better_start_is_kept_and_the_task_says_from_where(world: World) -> None:
    far, near = await ready(world, 9.0, options=TaskOptions()), await ready(world, 1.5, options=TaskOptions())
    mine = await ready(world, 1.0)
    report = await report_of(world, mine)
    assert (report.kept, report.from_task, report.cold, report.warm) == (True, near, 1.0, 0.5)
    assert report.code == "kept"
    assert "0.5 against 1" in report.reason
    assert far not in str(report)
    assert (await world.tasks.get(ANN, near)).latest.warm_start is None
    [(_, neighbour, fresh)] = world.engine.tried
    assert neighbour
    assert fresh == [True] * 4


@pytest.mark.parametrize(("cold", "warm"), [(1.0, 1.0), (0.5, 1.0), (1.0, math.inf)])
async def test_a_start_that_is_not_better_is_not_kept(world: World, cold: float, warm: float) -> None:
    near = await ready(world, 1.5, options=TaskOptions())
    world.engine.trial = (cold, warm)
    report = await report_of(world, await ready(world, 1.0))
    assert (report.kept, report.from_task, report.cold) == (False, near, cold)
    assert report.warm == (warm if math.isfinite(warm) else None)
    assert "as good or better" in report.reason
    assert report.code == "not_better"


async def test_a_kept_start_is_rebuilt_exactly_when_every_cache_and_the_other_task_are_gone(world: World) -> None:
    near = await ready(world, 1.5, options=TaskOptions())
    mine = await ready(world, 1.0)
    expected = await world.predict(ANN, mine, CATS)
    cold = await world.predict(ANN, await ready(world, 1.0, options=TaskOptions()), CATS)
    assert expected.predictions != cold.predictions, "the start must matter for this test to tell anything"
    await world.tasks.delete(ANN, near)
    await world.cache.delete_task(mine)
    world.engine.states.clear()
    assert (await world.predict(ANN, mine, CATS)).predictions == expected.predictions
    other = build_world(world.database, world.folder)  # another machine, with a cache of its own
    await other.initializers.bootstrap()
    assert (await other.predict(ANN, mine, CATS)).predictions == expected.predictions


async def test_a_neighbour_that_started_warm_itself_is_rebuilt_from_its_own_start(world: World) -> None:
    await ready(world, 1.5, options=TaskOptions())
    second = await ready(world, 1.0)
    await world.cache.delete_task(second)
    world.engine.tried.clear()
    third = await ready(world, 1.1)
    assert (await report_of(world, third)).from_task == second
    [(_, neighbour, _)] = world.engine.tried
    key = next(key for key in world.engine.adapted if key.task_id == second)
    assert neighbour == await world.cache.get(key)


async def test_without_another_task_or_an_example_to_spare_the_usual_start_is_taken(world: World) -> None:
    await world.tasks.create(BOB, new_task(support=support(cats=2)))
    await world.work()
    first = await ready(world, 1.0)
    assert (await report_of(world, first)) == WarmStart(
        False, "There is no other ready task of yours on protonet@1 to start from.", code="no_neighbour"
    )
    single = await report_of(world, await ready(world, 1.2, cats=1, dogs=1))
    assert (single.kept, single.from_task, single.cold) == (False, None, None)
    assert "no two examples" in single.reason
    assert single.code == "nothing_to_hold_out"
    assert world.engine.tried == []


async def test_examples_the_other_task_was_adapted_to_are_not_held_out(world: World) -> None:
    near = await ready(world, 1.0, options=TaskOptions())
    mixed = SupportSet(np.array([[1, 0], [0, 1], [3, 0], [0, 3]], np.float32), ("cat", "dog", "cat", "dog"))
    await world.tasks.create(ANN, new_task(support=mixed, options=WARM))
    await world.work()
    assert world.engine.tried[-1][2] == [False, False, True, True]
    report = await report_of(world, await ready(world, 1.0))
    assert (report.kept, report.from_task) == (False, near)
    assert "has been shown it all" in report.reason
    assert report.code == "nothing_to_hold_out"


async def test_weights_that_cannot_be_used_do_not_fail_the_task(world: World) -> None:
    near = await ready(world, 1.5, options=TaskOptions())
    world.engine.trial_fault = StateCorrupt("of another shape")
    report = await report_of(world, await ready(world, 1.0))
    assert (report.kept, report.from_task) == (False, near)
    assert "of another shape" in report.reason
    assert report.code == "unusable"


async def test_a_learner_that_cannot_start_elsewhere_is_refused_at_the_door_with_a_pointer(world: World) -> None:
    world.engine.able = frozenset({"embed"})
    with pytest.raises(InvalidOptions) as caught:
        await world.tasks.create(ANN, new_task(options=WARM))
    assert caught.value.issues[0].pointer == "#/options/warm_start"
    task_id = await ready(world, 1.0, options=TaskOptions())
    with pytest.raises(InvalidOptions):
        await world.tasks.revise(ANN, task_id, options=WARM)


async def test_a_wish_for_a_warm_start_makes_another_task(world: World) -> None:
    plain, _ = await world.tasks.create(ANN, new_task())
    warm, is_new = await world.tasks.create(ANN, new_task(options=WARM))
    assert is_new
    assert warm.id != plain.id
    assert (await world.tasks.create(ANN, new_task(options=WARM))) == (warm, False)


async def test_of_two_workers_that_chose_differently_the_winners_state_serves(world: World, second: World) -> None:
    await ready(world, 1.5, options=TaskOptions())
    task, _ = await world.tasks.create(ANN, new_task(support=support(cats=2, dogs=2), options=WARM, query=CATS))
    second.engine.trial = (0.5, 1.0)
    for process in (world, second):
        process.engine.gate.clear()
    running = [asyncio.create_task(process.adaptations.run(task.id, 1)) for process in (world, second)]
    await asyncio.sleep(0.1)
    for process in (second, world):
        process.engine.gate.set()
        await running[0 if process is world else 1]
    kept = (await report_of(world, task.id)).kept
    answers = [(await process.predict(ANN, task.id, CATS)).predictions for process in (world, second)]
    assert answers[0] == answers[1] == (await world.predictions.list(ANN, task.id)).rows[0].predictions
    async with world.database.read() as session:
        origin = await adaptations.find_origin(session, task.id, 1)
    assert origin is not None
    assert (origin[1] is not None) == kept


async def test_the_weights_of_revisions_that_no_request_can_need_any_more_are_dropped(world: World) -> None:
    await ready(world, 1.5, options=TaskOptions())
    mine = await ready(world, 1.0)
    for at in (1.1, 1.2, 1.3):
        await world.tasks.revise(ANN, mine, add=support(at=at))
        await world.work()
    async with world.database.read() as session:
        origins = [await adaptations.find_origin(session, mine, revision) for revision in (1, 2, 3, 4)]
    assert [origin and (origin.start is not None, origin.is_incomplete) for origin in origins] == [
        (False, True),
        (False, True),
        (True, False),
        (True, False),
    ]
    first = (await world.tasks.get(ANN, mine)).latest
    states = StateSource(world.database, world.cache, world.engine, world.initializers)
    with pytest.raises(Overloaded, match="newer revisions"):
        await states.rebuild(replace(first, revision=1))


async def test_the_time_of_a_warm_start_is_one_of_the_phases(world: World) -> None:
    await ready(world, 1.5, options=TaskOptions())
    timings_ms = (await world.tasks.get(ANN, await ready(world, 1.0))).latest.timings_ms
    assert list(timings_ms) == ["queue_wait", "queue", "batch", "device", "encode", "warm_start", "store"]
    assert timings_ms["warm_start"] > 0


def test_pixels_and_numbers_that_read_alike_are_the_same_example() -> None:
    pixels = np.array([[0, 255], [51, 0]], np.uint8)
    assert unseen(np.array([[0.0, 1.0], [0.5, 0.5]], np.float32), pixels).tolist() == [False, True]
