from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from app.db.session import Database
from app.db.tables import TaskRow
from app.domain import Status, SupportSet, TaskOptions
from app.errors import AppError, InvalidBody, InvalidOptions, InvalidQuery, InvalidSupport, NotFound, Unavailable
from app.services.requests import Removal
from tests.app.services.world import ANN, BOB, CATS, World, build_world, new_task, support


async def test_a_created_task_is_queued_in_sql_and_in_the_queue(world: World) -> None:
    task, is_new = await world.tasks.create(ANN, new_task(name="pets", metadata={"a": [1]}, query=CATS))
    assert is_new
    assert (task.latest.status, task.latest.revision, task.serving, task.has_query) == (Status.QUEUED, 1, None, True)
    assert (task.name, task.metadata, task.latest.class_counts) == ("pets", {"a": [1]}, {"cat": 1, "dog": 1})
    assert await world.tasks.get(ANN, task.id) == task
    assert list(world.queue.waiting) == [(task.id, 1)]


async def test_a_task_becomes_ready_with_its_curves_and_its_time_per_phase(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    await world.work()
    ready = await world.tasks.get(ANN, task.id)
    assert ready.latest == ready.serving
    assert (ready.latest.status, ready.latest.loss, ready.latest.accuracy) == (Status.READY, (1.0, 0.5), (0.5, 1.0))
    assert set(ready.latest.timings_ms) == {"queue_wait", "queue", "batch", "device", "encode", "store"}
    assert ready.latest.timings_ms["device"] == 2.0


async def test_an_equal_request_gets_the_live_task_and_adapts_nothing(world: World) -> None:
    first, _ = await world.tasks.create(ANN, new_task())
    await world.work()
    again, is_new = await world.tasks.create(ANN, new_task())
    assert (again.id, is_new, again.latest.status, world.queue.waiting) == (first.id, False, Status.READY, {})


@pytest.mark.parametrize(
    "changes", [{"support": support(cats=2)}, {"query": CATS}, {"options": TaskOptions(steps=3)}, {"name": "n"}, {"metadata": {"a": 1}}]
)
async def test_a_request_that_differs_in_anything_makes_its_own_task(world: World, changes: dict[str, object]) -> None:
    first, _ = await world.tasks.create(ANN, new_task())
    other, is_new = await world.tasks.create(ANN, new_task(**changes))
    assert is_new
    assert other.id != first.id


async def test_equal_requests_at_the_same_moment_make_one_task(world: World) -> None:
    made = await asyncio.gather(*(world.tasks.create(ANN, new_task()) for _ in range(8)))
    assert len({task.id for task, _ in made}) == 1
    assert [is_new for _, is_new in made].count(True) == 1


async def test_an_equal_request_of_another_key_makes_another_task(world: World) -> None:
    anns, _ = await world.tasks.create(ANN, new_task())
    bobs, is_new = await world.tasks.create(BOB, new_task())
    assert is_new
    assert anns.id != bobs.id


async def test_another_keys_task_is_not_found_whatever_is_asked_of_it(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    await world.work()
    attempts = (
        world.tasks.get(BOB, task.id),
        world.tasks.delete(BOB, task.id),
        world.tasks.revise(BOB, task.id, add=support()),
        world.tasks.wait(BOB, task.id, 1, 0.0),
        world.predict(BOB, task.id, CATS),
        world.predictions.list(BOB, task.id),
    )
    for attempt in attempts:
        with pytest.raises(NotFound) as caught:
            await attempt
        assert (caught.value.code, caught.value.status) == ("task_not_found", 404)
    assert (await world.tasks.list(BOB)).rows == ()
    assert (await world.tasks.get(ANN, task.id)).id == task.id


@pytest.mark.parametrize(
    ("changes", "error", "pointer"),
    [
        ({"support": SupportSet(np.zeros((0, 2), np.float32), ())}, InvalidSupport, "#/support/inputs"),
        ({"query": np.zeros((1, 3), np.float32)}, InvalidQuery, "#/query/0"),
        ({"options": TaskOptions(steps=11)}, InvalidOptions, "#/options/steps"),
        ({"ttl_s": 0}, InvalidBody, "#/ttl_s"),
        ({"ttl_s": 10**9}, InvalidBody, "#/ttl_s"),
    ],
)
async def test_a_refused_request_says_where_and_writes_nothing(
    world: World, changes: dict[str, object], error: type[AppError], pointer: str
) -> None:
    with pytest.raises(error) as caught:
        await world.tasks.create(ANN, new_task(**changes))
    assert [issue.pointer for issue in caught.value.issues] == [pointer]
    assert (await world.tasks.list(ANN)).rows == ()
    assert world.queue.waiting == {}


async def test_an_unknown_initializer_is_not_found(world: World) -> None:
    with pytest.raises(NotFound) as caught:
        await world.tasks.create(ANN, new_task(initializer="nope"))
    assert caught.value.code == "initializer_not_found"


@pytest.mark.parametrize("odd", ["", "task_nope", "\0", "x" * 10_000, "\N{SNOWMAN}", "' OR 1=1 --"])
async def test_odd_ids_and_cursors_are_the_callers_fault_at_worst(world: World, odd: str) -> None:
    with pytest.raises(AppError) as caught:
        await world.tasks.get(ANN, odd)
    assert 400 <= caught.value.status < 500
    if "\0" not in odd:  # PostgreSQL cannot even compare a text that holds one
        assert (await world.tasks.list(ANN, after=odd, name=odd)).rows == ()


async def test_a_version_beyond_every_integer_is_the_callers_fault(world: World) -> None:
    with pytest.raises(AppError) as caught:
        await world.initializers.get("protonet", 10**30)
    assert 400 <= caught.value.status < 500


async def test_pages_come_newest_first_and_say_whether_more_follow(world: World) -> None:
    made: list[str] = []
    for i in range(5):
        task, _ = await world.tasks.create(ANN, new_task(name=f"n{i}"))
        made.insert(0, task.id)
        await asyncio.sleep(0.002)  # ids sort by the millisecond
    first = await world.tasks.list(ANN, limit=3)
    rest = await world.tasks.list(ANN, after=first.rows[-1].id, limit=3)
    assert [task.id for task in first.rows + rest.rows] == made
    assert (first.has_more, rest.has_more) == (True, False)


async def test_lists_filter_by_status_and_by_name(world: World) -> None:
    ready, _ = await world.tasks.create(ANN, new_task(name="a"))
    await world.work()
    queued, _ = await world.tasks.create(ANN, new_task(name="b"))
    assert [task.id for task in (await world.tasks.list(ANN, status=Status.READY)).rows] == [ready.id]
    assert [task.id for task in (await world.tasks.list(ANN, status=Status.QUEUED)).rows] == [queued.id]
    assert [task.id for task in (await world.tasks.list(ANN, name="b")).rows] == [queued.id]


async def test_a_deleted_task_is_gone_with_its_state_and_an_equal_one_can_be_made(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task(query=CATS))
    await world.work()
    await world.tasks.delete(ANN, task.id)
    with pytest.raises(NotFound):
        await world.tasks.get(ANN, task.id)
    assert await world.cache.get(world.engine.adapted[0]) is None
    assert world.engine.states == {}
    again, is_new = await world.tasks.create(ANN, new_task(query=CATS))
    assert is_new
    assert again.id != task.id


async def test_a_task_ends_after_its_ttl_and_the_sweeper_removes_it(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task(ttl_s=60))
    assert task.expires_at == task.created_at + timedelta(seconds=60)
    await world.work()
    await world.expire()
    with pytest.raises(NotFound):
        await world.tasks.get(ANN, task.id)
    assert (await world.tasks.list(ANN)).rows == ()
    await world.adaptations.sweep()
    assert world.engine.states == {}
    assert await world.cache.get(world.engine.adapted[0]) is None


async def test_one_sweep_removes_all_that_is_past_its_ttl_however_much_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.adaptations._EXPIRE_BATCH", 2)
    for number in range(5):
        await world.tasks.create(ANN, new_task(name=f"task {number}"))
    await world.expire()
    await world.adaptations.sweep(older_than_s=0)
    async with world.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(TaskRow)) == 0


async def test_an_equal_request_after_the_ttl_makes_a_new_task_even_before_the_sweep(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    await world.expire()
    again, is_new = await world.tasks.create(ANN, new_task())
    assert is_new
    assert again.id != task.id


async def test_a_task_is_accepted_while_the_queue_is_away_and_adapted_once_it_is_back(world: World) -> None:
    world.queue.is_down = True
    task, _ = await world.tasks.create(ANN, new_task())
    with pytest.raises(Unavailable):
        await world.adaptations.sweep(older_than_s=0)
    world.queue.is_down = False
    assert await world.adaptations.sweep(older_than_s=0) == 1
    await world.work()
    assert (await world.tasks.get(ANN, task.id)).latest.status is Status.READY


async def test_a_database_that_is_away_is_unavailable_and_nothing_is_enqueued(world: World) -> None:
    away = Database("postgresql+psycopg://postgres@127.0.0.1:1/nothing")
    cut_off = build_world(away, world.folder)
    for attempt in (cut_off.tasks.create(ANN, new_task()), cut_off.tasks.get(ANN, "task_a"), cut_off.keys.create("k")):
        with pytest.raises(Unavailable) as caught:
            await attempt
        assert caught.value.code == "database_unavailable"
    assert cut_off.queue.waiting == {}
    await away.close()


async def test_the_serving_revision_answers_until_the_new_one_is_ready(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    await world.work()
    bird = SupportSet(np.array([[-1, -1], [-1, -1]], np.float32), ("bird", "bird"))
    revised = await world.tasks.revise(ANN, task.id, add=bird)
    assert (revised.latest.revision, revised.latest.status, revised.latest.classes) == (2, Status.QUEUED, ("bird", "cat", "dog"))
    before = await world.predict(ANN, task.id, bird.inputs[:1])
    assert (before.revision, set(before.predictions[0].probabilities or {})) == (1, {"cat", "dog"})
    await world.work()
    after = await world.predict(ANN, task.id, bird.inputs[:1])
    assert (after.revision, after.predictions[0].label) == (2, "bird")


async def test_classes_and_examples_can_be_removed(world: World) -> None:
    inputs = np.arange(12, dtype=np.float32).reshape(6, 2)
    task, _ = await world.tasks.create(ANN, new_task(support=SupportSet(inputs, ("a", "a", "b", "b", "c", "c"))))
    revised = await world.tasks.revise(ANN, task.id, remove=Removal(classes=("c",), indices=(0,)))
    assert (revised.latest.class_counts, revised.latest.n_support) == ({"a": 1, "b": 2}, 3)


async def test_pixels_and_numbers_join_in_one_support_set(world: World) -> None:
    pixels = SupportSet(np.array([[255, 0], [0, 255]], np.uint8), ("cat", "dog"))
    task, _ = await world.tasks.create(ANN, new_task(support=pixels))
    await world.tasks.revise(ANN, task.id, add=SupportSet(np.array([[1.0, 0.0]], np.float32), ("cat",)))
    await world.work()
    state = world.engine.states[world.engine.adapted[-1]]
    np.testing.assert_allclose(state, [[1.0, 0.0], [0.0, 1.0]])


async def test_an_option_can_be_revised_and_stays_until_it_is_revised_again(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task(options=TaskOptions(steps=2)))
    kept = await world.tasks.revise(ANN, task.id, add=support())
    changed = await world.tasks.revise(ANN, task.id, options=TaskOptions(steps=7))
    assert (kept.latest.options.steps, changed.latest.options.steps) == (2, 7)


async def test_a_revised_task_is_not_what_the_first_request_asked_for_any_more(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    await world.tasks.revise(ANN, task.id, add=support(at=2.0))
    again, is_new = await world.tasks.create(ANN, new_task())
    assert is_new
    assert again.id != task.id


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"add": SupportSet(np.zeros((1, 3), np.float32), ("cat",))}, "#/add/inputs/0"),
        ({"add": SupportSet(np.full((1, 2), np.nan, np.float32), ("cat",))}, "#/add/inputs/0"),
        ({"remove": Removal(classes=("cat", "fish"))}, "#/remove/classes/1"),
        ({"remove": Removal(indices=(2,))}, "#/remove/indices/0"),
        ({"remove": Removal(classes=("cat",))}, "#/support/labels"),
    ],
)
async def test_a_refused_revision_says_where_and_leaves_the_task_as_it_is(world: World, change: dict[str, object], pointer: str) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    with pytest.raises(InvalidSupport) as caught:
        await world.tasks.revise(ANN, task.id, **change)  # type: ignore[arg-type]
    assert [issue.pointer for issue in caught.value.issues] == [pointer]
    assert await world.tasks.get(ANN, task.id) == task


async def test_revisions_at_the_same_moment_build_on_each_other(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    await asyncio.gather(*(world.tasks.revise(ANN, task.id, add=support(at=2.0 + i)) for i in range(5)))
    assert (await world.tasks.get(ANN, task.id)).latest.revision == 6
    assert (await world.tasks.get(ANN, task.id)).latest.n_support == 12
    await world.work()
    done = await world.tasks.get(ANN, task.id)
    assert (done.latest.status, done.serving) == (Status.READY, done.latest)


async def test_waiting_ends_as_soon_as_the_adaptation_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.tasks._RECHECK_S", 60.0)  # only the signal can end it in time
    task, _ = await world.tasks.create(ANN, new_task())
    waiting = asyncio.create_task(world.tasks.wait(ANN, task.id, 1, 60.0))
    await asyncio.sleep(0.05)
    await world.work()
    assert (await asyncio.wait_for(waiting, 10)).latest.status is Status.READY


async def test_waiting_survives_a_lost_signal(world: World, second: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.tasks._RECHECK_S", 0.1)
    task, _ = await world.tasks.create(ANN, new_task())
    waiting = asyncio.create_task(world.tasks.wait(ANN, task.id, 1, 10.0))
    await asyncio.sleep(0.05)
    await second.adaptations.run(task.id, 1)  # the other process's signals do not come here
    assert (await waiting).latest.status is Status.READY


async def test_who_is_told_soon_looks_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.tasks._FIRST_LOOK_S", 30.0)
    task, _ = await world.tasks.create(ANN, new_task())
    fetch, looks = world.database.fetch, list[object]()

    def counted(*asked: Any) -> Any:
        looks.append(asked)
        return fetch(*asked)

    monkeypatch.setattr(world.database, "fetch", counted)
    waiting = asyncio.create_task(world.tasks.wait(ANN, task.id, 1, 60.0))
    await asyncio.sleep(0.05)
    await world.work()
    assert (await asyncio.wait_for(waiting, 10)).latest.status is Status.READY
    assert len(looks) == 1


async def test_waiting_gives_up_after_its_time_with_the_task_as_it_stands(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    assert (await world.tasks.wait(ANN, task.id, 1, 0.05)).latest.status is Status.QUEUED
