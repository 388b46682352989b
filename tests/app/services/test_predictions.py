from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from app.domain import Array, Evidence, Label, SupportSet
from app.errors import Conflict, InvalidQuery
from app.services import lanes
from app.services.lanes import choose_evidence
from app.services.requests import Removal
from tests.app.services.world import ANN, CATS, World, new_task, support, write_initializer

DOGS = np.array([[0.1, 1.0]], dtype=np.float32)


async def ready_task(world: World, **changes: object) -> str:
    task, _ = await world.tasks.create(ANN, new_task(**changes))
    await world.work()
    return task.id


async def test_answers_name_the_label_every_probability_the_version_and_the_time(world: World) -> None:
    task_id = await ready_task(world)
    answered = await world.predict(ANN, task_id, np.concatenate([CATS, DOGS]))
    assert [each.label for each in answered.predictions] == ["cat", "dog"]
    probabilities = answered.predictions[0].probabilities or {}
    assert set(probabilities) == {"cat", "dog"}
    assert sum(probabilities.values()) == pytest.approx(1.0)
    assert (str(answered.initializer), answered.revision, answered.id, answered.source) == ("protonet@1", 1, None, "live")
    assert set(answered.timings_ms) == {"queue", "batch", "device", "total"}


async def test_regression_answers_with_the_value(world: World) -> None:
    line = SupportSet(np.array([[0, 0], [1, 1]], np.float32), (2.0, 4.0))
    task_id = await ready_task(world, initializer="sine", support=line)
    answered = await world.predict(ANN, task_id, CATS)
    assert answered.predictions[0].value == [3.0]
    assert (answered.predictions[0].label, answered.predictions[0].probabilities) == (3.0, None)


async def test_a_task_that_is_not_ready_says_when_to_come_back(world: World) -> None:
    task, _ = await world.tasks.create(ANN, new_task())
    with pytest.raises(Conflict) as caught:
        await world.predict(ANN, task.id, CATS)
    assert (caught.value.code, caught.value.status, caught.value.retry_after_s) == ("task_not_ready", 409, 1)


@pytest.mark.parametrize("queries", [np.zeros((1, 3)), np.zeros((0, 2)), np.full((1, 2), np.inf), np.zeros((1001, 2))])
async def test_queries_that_do_not_fit_are_refused(world: World, queries: Array) -> None:
    task_id = await ready_task(world)
    with pytest.raises(InvalidQuery) as caught:
        await world.predict(ANN, task_id, queries.astype(np.float32))
    assert caught.value.issues[0].pointer.startswith("#/inputs")


async def test_another_process_brings_the_state_from_the_cache_without_adapting(world: World, second: World) -> None:
    task_id = await ready_task(world)
    answered = await second.predict(ANN, task_id, CATS)
    assert answered.predictions[0].label == "cat"
    assert (len(second.engine.restored), second.engine.adapted) == (1, [])


async def test_a_state_lost_everywhere_is_adapted_again_once_however_many_wait(world: World, second: World) -> None:
    task_id = await ready_task(world)
    expected = await world.predict(ANN, task_id, CATS)
    await world.cache.delete_task(task_id)
    answers = await asyncio.gather(*(second.predict(ANN, task_id, CATS) for _ in range(16)))
    assert all(answer.predictions == expected.predictions for answer in answers)
    assert len(second.engine.adapted) == 1
    assert await world.cache.get(second.engine.adapted[0]) is not None


async def test_a_caller_that_leaves_does_not_end_the_re_adaptation_others_wait_for(world: World, second: World) -> None:
    task_id = await ready_task(world)
    await world.cache.delete_task(task_id)
    second.engine.gate.clear()
    leaver, stayer = (asyncio.create_task(second.predict(ANN, task_id, CATS)) for _ in range(2))
    await asyncio.sleep(0.1)
    leaver.cancel()
    await asyncio.sleep(0.01)
    second.engine.gate.set()
    assert (await stayer).predictions[0].label == "cat"
    assert len(second.engine.adapted) == 1


async def test_a_corrupt_state_in_the_cache_is_adapted_again_and_replaced(world: World, second: World) -> None:
    task_id = await ready_task(world)
    key = world.engine.adapted[0]
    await world.cache.put(key, b"not a state")
    assert (await second.predict(ANN, task_id, CATS)).predictions[0].label == "cat"
    assert await world.cache.get(key) != b"not a state"


async def test_the_query_set_is_answered_with_the_task_and_again_for_each_revision(world: World) -> None:
    task_id = await ready_task(world, query=np.concatenate([CATS, DOGS]))
    await world.tasks.revise(ANN, task_id, add=new_task().support)
    await world.work()
    kept = (await world.predictions.list(ANN, task_id)).rows
    assert [(each.source, each.revision) for each in kept] == [("query", 1), ("query", 2)]
    assert [each.label for each in kept[0].predictions] == ["cat", "dog"]


async def test_recorded_predictions_are_listed_after_the_query_sets_page_by_page(world: World) -> None:
    task_id = await ready_task(world, query=CATS)
    await world.predict(ANN, task_id, DOGS)
    recorded = []
    for _ in range(3):
        await asyncio.sleep(0.002)
        recorded.append(await world.predict(ANN, task_id, DOGS, record=True))
    first = await world.predictions.list(ANN, task_id, limit=2)
    rest = await world.predictions.list(ANN, task_id, after=first.rows[-1].id, limit=2)
    assert [each.source for each in first.rows + rest.rows] == ["query", "recorded", "recorded", "recorded"]
    assert (first.has_more, rest.has_more) == (True, False)
    assert first.rows[1] == recorded[0]


async def test_a_task_of_an_older_version_answers_with_it_and_is_re_adapted_once(world: World) -> None:
    task_id = await ready_task(world)
    write_initializer(world.folder, gain=2.0)
    await world.initializers.reload("protonet")
    old = await asyncio.gather(*(world.predict(ANN, task_id, CATS) for _ in range(5)))
    assert {str(each.initializer) for each in old} == {"protonet@1"}
    assert list(world.queue.waiting) == [(task_id, 2)]
    await world.work()
    new = await world.predict(ANN, task_id, CATS)
    assert (str(new.initializer), new.revision, world.queue.waiting) == ("protonet@2", 2, {})


async def test_a_failed_re_adaptation_is_not_tried_at_every_prediction(world: World) -> None:
    task_id = await ready_task(world)
    write_initializer(world.folder, gain=2.0, limits={"min_way": 3, "max_way": 5, "max_support": 20, "max_steps": 10})
    await world.initializers.reload("protonet")
    await world.predict(ANN, task_id, CATS)
    await world.work()
    latest = (await world.tasks.get(ANN, task_id)).latest
    assert latest.error_code == "invalid_support"
    assert str((await world.predict(ANN, task_id, CATS)).initializer) == "protonet@1"
    assert world.queue.waiting == {}


async def test_a_retired_version_is_installed_again_for_the_task_that_needs_it(world: World) -> None:
    task_id = await ready_task(world)
    (ref,) = {key.initializer for key in world.engine.adapted}
    await world.engine.retire(ref)
    assert (await world.predict(ANN, task_id, CATS)).predictions[0].label == "cat"


async def test_a_queue_that_is_away_does_not_spoil_an_answer(world: World) -> None:
    task_id = await ready_task(world)
    write_initializer(world.folder, gain=2.0)
    await world.initializers.reload("protonet")
    world.queue.is_down = True
    assert (await world.predict(ANN, task_id, CATS)).predictions[0].label == "cat"
    world.queue.is_down = False
    assert await world.adaptations.sweep(older_than_s=0) == 1  # the row was there all the same


async def test_an_explanation_names_the_examples_that_drove_an_answer(world: World) -> None:
    task_id = await ready_task(world, support=support(cats=2, dogs=1))
    [answer] = (await world.predict(ANN, task_id, CATS, explain=True)).predictions
    assert answer.explanation is not None
    assert [(each.index, each.label) for each in answer.explanation] == [(0, "cat"), (1, "cat"), (2, "dog")]
    assert [each.weight for each in answer.explanation] == pytest.approx([1 / 2.1, 1 / 2.1, 0.1 / 2.1])
    assert (await world.predict(ANN, task_id, CATS)).predictions[0].explanation is None


async def test_an_explanation_counts_in_the_revision_that_answers(world: World) -> None:
    task_id = await ready_task(world, support=support(cats=2, dogs=2))
    await world.tasks.revise(ANN, task_id, remove=Removal(indices=(0, 2)))
    [before] = (await world.predict(ANN, task_id, CATS, explain=True)).predictions
    await world.work()
    [after] = (await world.predict(ANN, task_id, CATS, explain=True)).predictions
    assert [{each.index for each in answer.explanation or ()} for answer in (before, after)] == [{0, 1, 2, 3}, {0, 1}]


async def test_an_explanation_is_kept_with_a_recorded_answer(world: World) -> None:
    task_id = await ready_task(world)
    recorded = await world.predict(ANN, task_id, CATS, explain=True, record=True)
    plain = await world.predict(ANN, task_id, CATS, record=True)
    assert recorded.predictions[0].explanation
    assert (await world.predictions.list(ANN, task_id)).rows == (recorded, plain)


async def test_a_value_is_explained_by_the_numbers_it_was_learned_from(world: World) -> None:
    line = SupportSet(np.array([[0, 1], [1, 0]], np.float32), (2.0, 4.0))
    task_id = await ready_task(world, initializer="sine", support=line)
    [answer] = (await world.predict(ANN, task_id, CATS, explain=True)).predictions
    assert [(each.index, each.label) for each in answer.explanation or ()] == [(1, 4.0), (0, 2.0)]


async def test_explaining_leaves_the_event_loop_to_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 answers among 5,000 examples take half a second."""
    threads: list[threading.Thread] = []

    def choose(weights: Array, labels: Sequence[Label]) -> tuple[Evidence, ...]:
        threads.append(threading.current_thread())
        return choose_evidence(weights, labels)

    monkeypatch.setattr(lanes, "choose_evidence", choose)
    task_id = await ready_task(world)
    await world.predict(ANN, task_id, CATS, explain=True)
    assert threads
    assert threading.main_thread() not in threads


async def test_a_learner_that_cannot_explain_says_so_and_still_answers(world: World) -> None:
    task_id = await ready_task(world)
    world.engine.able = frozenset({"embed"})
    with pytest.raises(Conflict, match="leave `explain` out") as caught:
        await world.predict(ANN, task_id, CATS, explain=True)
    assert (caught.value.code, caught.value.issues[0].pointer) == ("not_supported", "#/query/explain")
    assert (await world.predict(ANN, task_id, CATS)).predictions[0].label == "cat"


async def test_a_state_lost_everywhere_is_adapted_again_and_explained(world: World, second: World) -> None:
    task_id = await ready_task(world)
    expected = await world.predict(ANN, task_id, CATS, explain=True)
    await world.cache.delete_task(task_id)
    assert (await second.predict(ANN, task_id, CATS, explain=True)).predictions == expected.predictions


@pytest.mark.parametrize(
    ("weights", "indices"),
    [
        ([0.1, -0.6, 0.3], [1, 2, 0]),
        ([0.0, 1.0, 0.0], [1]),
        ([0.1] * 8, [0, 1, 2, 3, 4]),
        ([0.05, 0.2, -0.2, 0.2, 0.05, 0.2, 0.1], [1, 2, 3, 5, 6]),
        ([np.nan, np.nan], []),
    ],
)
def test_the_evidence_is_of_largest_weight_first_and_of_equal_ones_the_earliest(weights: list[float], indices: list[int]) -> None:
    evidence = choose_evidence(np.array(weights, np.float32), [f"n{i}" for i in range(len(weights))])
    assert [each.index for each in evidence] == indices
    assert [each.label for each in evidence] == [f"n{i}" for i in indices]
    assert [each.weight for each in evidence] == pytest.approx([weights[i] for i in indices])


async def test_how_unknown_a_query_is_travels_with_its_answer_and_is_kept(world: World) -> None:
    task_id = await ready_task(world)
    assert (await world.predict(ANN, task_id, CATS)).predictions[0].unknown is None
    world.engine.unknown = np.array([0.25], np.float32)
    recorded = await world.predict(ANN, task_id, CATS, record=True)
    assert recorded.predictions[0].unknown == 0.25
    assert (await world.predictions.list(ANN, task_id)).rows == (recorded,)
