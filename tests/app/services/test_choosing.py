"""`auto`: chosen by the worker, stored with the revision, on each database in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain import Status, SupportSet, Task, TaskOptions
from app.errors import AdaptationFailed, InitializerRejected, InvalidOptions, InvalidSupport, Overloaded
from app.services.choosing import Chooser
from app.services.requests import Removal
from app.services.trial_costs import REMEMBERED_S
from tests.app.services.world import ANN, CATS, World, build_world, new_task, support, write_initializer

GOOD, POOR = 0.1, 0.2


def expected(loss: float) -> dict[str, Any]:
    return {"validation": [{"n_way": 2, "k_shot": 1, "loss": loss, "accuracy": 90.0}]}


@pytest.fixture
async def choice(world: World) -> World:
    """Three classifiers: by their cards `best` is better than `zeal`, and `protonet` says nothing. All on one kind of vector."""
    write_initializer(world.folder, "best", gain=2.0, confidence=expected(GOOD))
    write_initializer(world.folder, "zeal", gain=3.0, confidence=expected(POOR))
    await world.initializers.bootstrap()
    return world


async def auto(world: World, given: SupportSet, **changes: Any) -> Task:
    """A task of Ann's that was left to the service, after its job has run."""
    task, _ = await world.tasks.create(ANN, new_task(initializer="auto", support=given, **changes))
    await world.work()
    return await world.tasks.get(ANN, task.id)


async def test_the_row_begins_with_the_best_card_and_says_that_nothing_is_chosen(choice: World) -> None:
    task, _ = await choice.tasks.create(ANN, new_task(initializer="auto"))
    assert str(task.latest.initializer) == "best@1"
    assert task.latest.selection == {"requested": "auto", "chosen": None}


async def test_held_out_examples_outvote_a_card_when_there_are_enough(choice: World) -> None:
    choice.engine.held_out = {("best", 1): 2.0, ("zeal", 1): 0.2, ("zeal", 2): 0.1, ("protonet", 1): 2.0}
    task = await auto(choice, support(cats=8, dogs=8))
    assert (task.latest.status, str(task.latest.initializer)) == (Status.READY, "zeal@1")
    selection = task.latest.selection
    assert selection is not None
    assert selection["chosen"] == {"initializer": "zeal", "version": 1, "steps": 2}
    assert [(t["initializer"], t["steps"]) for t in selection["tried"]] == [
        *[("best", 1), ("zeal", 1), ("protonet", 1)],
        *[("zeal", 2), ("best", 2), ("protonet", 2)],
    ]
    best = selection["tried"][0]
    assert best["score"] == pytest.approx(
        (selection["prior_examples"] * best["prior"] + 16 * 2.0) / (selection["prior_examples"] + 16), abs=1e-4
    )
    assert (selection["held_out_examples"], selection["not_tried"]) == (16, [])
    assert [key.initializer.name for key in choice.engine.adapted] == ["zeal"]
    assert (await choice.predict(ANN, task.id, CATS)).initializer == task.latest.initializer


async def test_one_example_a_class_leaves_it_to_the_cards(choice: World) -> None:
    task = await auto(choice, support())
    assert choice.engine.scored == []
    assert str(task.latest.initializer) == "best@1"
    selection = task.latest.selection
    assert selection is not None
    assert [(t["initializer"], t["n"], t["held_out_loss"], t["score"] == t["prior"]) for t in selection["tried"]] == [
        ("best", 0, None, True),
        ("zeal", 0, None, True),
        ("protonet", 0, None, True),
    ]
    assert {each["reason"] for each in selection["not_tried"]} == {"nothing_to_hold_out"}


async def test_what_the_time_did_not_reach_is_named(choice: World) -> None:
    hurried = build_world(choice.database, choice.folder, auto_budget_ms=30.0)
    await hurried.initializers.bootstrap()
    hurried.engine.score_s = 0.05
    hurried.engine.held_out = {("best", 1): 5.0, ("zeal", 1): 0.0}
    task = await auto(hurried, support(cats=2, dogs=2))
    selection = task.latest.selection
    assert selection is not None
    assert [each["initializer"] for each in selection["tried"]] == ["best"]
    assert [each["initializer"] for each in selection["not_tried"]][:2] == ["best", "zeal"]
    assert {each["reason"] for each in selection["not_tried"]} == {"budget"}
    assert str(task.latest.initializer) == "best@1"


async def test_no_time_at_all_takes_the_best_card(choice: World) -> None:
    hurried = build_world(choice.database, choice.folder, auto_budget_ms=0.0)
    await hurried.initializers.bootstrap()
    task = await auto(hurried, support(cats=2, dogs=2))
    assert (hurried.engine.scored, str(task.latest.initializer)) == ([], "best@1")


async def test_one_that_failed_is_not_taken_because_the_time_is_up(choice: World) -> None:
    hurried = build_world(choice.database, choice.folder, auto_budget_ms=30.0)
    await hurried.initializers.bootstrap()
    hurried.engine.score_s = 0.05
    hurried.engine.held_out = {("best", 1): AdaptationFailed("no room")}
    task = await auto(hurried, support(cats=2, dogs=2))
    selection = task.latest.selection
    assert selection is not None
    assert (selection["tried"], selection["chosen"]["initializer"]) == ([], "zeal")
    assert task.latest.initializer.name == "zeal"


async def test_one_that_fails_is_named_and_the_others_are_tried(choice: World) -> None:
    choice.engine.held_out = {("best", 1): AdaptationFailed("diverged"), ("best", 2): float("nan")}
    selection = (await auto(choice, support(cats=9, dogs=9))).latest.selection
    assert selection is not None
    assert selection["chosen"]["initializer"] == "zeal"
    assert [(each["initializer"], each["reason"]) for each in selection["not_tried"]] == [("best", "adaptation_failed")] * 2


async def test_a_full_device_gives_the_job_back_and_nothing_is_chosen(choice: World) -> None:
    choice.engine.held_out = {("best", 1): Overloaded("full")}
    task, _ = await choice.tasks.create(ANN, new_task(initializer="auto", support=support(cats=2, dogs=2)))
    with pytest.raises(Overloaded):
        await choice.adaptations.run(task.id, 1)
    row = (await choice.tasks.get(ANN, task.id)).latest
    assert (row.status, row.attempts, row.selection) == (Status.QUEUED, 0, {"requested": "auto", "chosen": None})


async def test_of_two_workers_that_choose_differently_the_first_choice_holds(choice: World) -> None:
    other = build_world(choice.database, choice.folder, cache=choice.cache)
    await other.initializers.bootstrap()
    choice.engine.held_out = {("zeal", 1): 0.0, ("best", 1): 9.0}
    other.engine.held_out = {("zeal", 1): 9.0, ("best", 1): 0.0}
    task, _ = await choice.tasks.create(ANN, new_task(initializer="auto", support=support(cats=9, dogs=9)))
    await asyncio.gather(choice.adaptations.run(task.id, 1), other.adaptations.run(task.id, 1))
    row = (await choice.tasks.get(ANN, task.id)).latest
    assert row.selection is not None
    assert (row.status, row.initializer.name) == (Status.READY, row.selection["chosen"]["initializer"])
    adapted = {key.initializer for world in (choice, other) for key in world.engine.adapted}
    assert adapted == {row.initializer}, "a loser must adapt what was stored"


async def test_a_lost_state_is_rebuilt_with_the_stored_choice(choice: World) -> None:
    choice.engine.held_out = {("zeal", 2): 0.0}
    task = await auto(choice, support(cats=9, dogs=9))
    before = await choice.predict(ANN, task.id, CATS)
    fresh = build_world(choice.database, choice.folder)
    await fresh.initializers.bootstrap()
    fresh.engine.held_out = {("best", 1): 0.0}
    assert (await fresh.predict(ANN, task.id, CATS)).predictions == before.predictions
    assert fresh.engine.scored == []
    assert [key.initializer.name for key in fresh.engine.adapted] == ["zeal"]


async def test_a_reload_keeps_the_chosen_name_and_a_new_revision_chooses_again(choice: World) -> None:
    choice.engine.held_out = {("zeal", 1): 0.0}
    task = await auto(choice, support(cats=9, dogs=9))
    write_initializer(choice.folder, "zeal", gain=4.0, confidence=expected(POOR))
    await choice.initializers.reload("zeal", readapt="eager")
    scored = len(choice.engine.scored)
    await choice.work()
    again = (await choice.tasks.get(ANN, task.id)).latest
    assert (str(again.initializer), again.revision, len(choice.engine.scored)) == ("zeal@2", 2, scored)
    choice.engine.held_out = {("best", 1): 0.0}
    await choice.tasks.revise(ANN, task.id, add=SupportSet(np.array([[0.5, 0.5]], np.float32), ("cow",)), remove=Removal(indices=(0,)))
    await choice.work()
    assert str((await choice.tasks.get(ANN, task.id)).latest.initializer) == "best@1"


async def test_a_reload_of_what_was_only_the_first_guess_starts_nothing(choice: World) -> None:
    choice.engine.held_out = {("zeal", 1): 0.0}
    task = await auto(choice, support(cats=9, dogs=9))
    write_initializer(choice.folder, "best", gain=5.0, confidence=expected(GOOD))
    outcome = await choice.initializers.reload("best", readapt="eager")
    assert outcome.readapting == 0
    assert (await choice.tasks.get(ANN, task.id)).latest.revision == 1


async def test_equal_requests_are_one_task_until_there_is_more_to_choose_from(choice: World, tmp_path: Path) -> None:
    first = await auto(choice, support())
    same, is_new = await choice.tasks.create(ANN, new_task(initializer="auto", support=support()))
    assert (same.id, is_new) == (first.id, False)
    assert (await choice.tasks.create(ANN, new_task(initializer="best", support=support())))[1], "named is another request"
    write_initializer(choice.folder, "more")
    await choice.initializers.reload("more")
    assert (await choice.tasks.create(ANN, new_task(initializer="auto", support=support())))[1]


async def test_steps_that_the_client_chose_are_kept(choice: World) -> None:
    task = await auto(choice, support(cats=2, dogs=2), options=TaskOptions(steps=7))
    assert set(choice.engine.scored) == {("best", 7), ("zeal", 7), ("protonet", 7)}
    assert (task.latest.selection or {})["chosen"]["steps"] == 7


async def test_numbers_are_left_to_the_regressors_and_few_points_to_the_first_name(choice: World) -> None:
    write_initializer(choice.folder, "sine-two", gain=2.0)
    await choice.initializers.bootstrap()
    choice.engine.held_out = {("sine-two", 1): 0.1, ("sine", 1): 0.2}
    points = SupportSet(np.ones((3, 2), np.float32), (1.0, 2.0, 3.0))
    assert (await auto(choice, points)).latest.initializer.name == "sine-two"
    assert {name for name, _ in choice.engine.scored} == {"sine", "sine-two"}
    two = SupportSet(np.ones((2, 2), np.float32), (1.0, 2.0))
    assert (await auto(choice, two)).latest.initializer.name == "sine"


async def test_nothing_that_fits_is_refused_with_what_there_is(choice: World) -> None:
    with pytest.raises(InvalidSupport) as wrong_shape:
        await choice.tasks.create(ANN, new_task(initializer="auto", support=SupportSet(np.ones((2, 3), np.float32), ("a", "b"))))
    assert wrong_shape.value.issues[0].pointer == "#/support/inputs/0"
    assert "best (classification) reads vector [2]" in wrong_shape.value.issues[0].detail
    with pytest.raises(InvalidSupport) as too_many:
        await choice.tasks.create(ANN, new_task(initializer="auto", support=support(cats=20, dogs=20)))
    assert [issue.detail for issue in too_many.value.issues] == ["40 examples; best takes at most 20 (2 other initializers too)"]
    with pytest.raises(InvalidSupport) as one_class:
        await choice.tasks.create(ANN, new_task(initializer="auto", support=support(cats=3, dogs=0)))
    assert [issue.pointer for issue in one_class.value.issues] == ["#/support/labels"]
    nan = SupportSet(np.full((2, 2), np.nan, np.float32), ("a", "b"))
    with pytest.raises(InvalidSupport) as not_finite:
        await choice.tasks.create(ANN, new_task(initializer="auto", support=nan))
    assert [issue.detail for issue in not_finite.value.issues] == ["holds NaN or infinity; expected finite numbers"] * 2
    with pytest.raises(InvalidOptions):
        await choice.tasks.create(ANN, new_task(initializer="auto", options=TaskOptions(steps=11)))


async def test_only_those_whose_limits_admit_it_are_tried(choice: World) -> None:
    limits = {"min_way": 2, "max_way": 5, "max_support": 3, "max_steps": 10}
    write_initializer(choice.folder, "best", gain=6.0, confidence=expected(GOOD), limits=limits)
    await choice.initializers.reload("best")
    task = await auto(choice, support(cats=2, dogs=2))
    assert {name for name, _ in choice.engine.scored} == {"zeal", "protonet"}
    assert task.latest.initializer.name == "zeal"


async def timed(choice: World, monkeypatch: pytest.MonkeyPatch, **score_ms: float) -> World:
    """A process whose trials take as long as told on a clock that nothing else moves, with 100 ms for each choice."""
    process = build_world(choice.database, choice.folder, auto_budget_ms=100.0)
    await process.initializers.bootstrap()
    process.engine.score_ms = score_ms
    chooser = Chooser(process.database, process.engine, process.initializers, process.settings, lambda: process.engine.clock_ms / 1000)
    monkeypatch.setattr(process.adaptations, "_chooser", chooser)
    return process


def names(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(row["initializer"], row["steps"]) for row in rows]


async def test_a_trial_that_is_known_not_to_fit_is_not_begun_and_leaves_its_time_to_others(
    choice: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await timed(choice, monkeypatch, best=400.0, zeal=40.0, protonet=30.0)
    first = (await auto(process, support(cats=8, dogs=8))).latest.selection or {}
    assert names(first["tried"]) == [("best", 1)]
    second = (await auto(process, support(cats=8, dogs=8), name="second")).latest.selection or {}
    assert names(second["tried"]) == [("best", 2)], "other steps may be quicker"
    third = (await auto(process, support(cats=8, dogs=8), name="third")).latest.selection or {}
    assert names(third["tried"]) == [("zeal", 1), ("protonet", 1), ("zeal", 2)]
    reasons = {(row["initializer"], row["steps"]): row["reason"] for row in third["not_tried"]}
    assert reasons == {("best", 1): "too_slow", ("best", 2): "too_slow", ("protonet", 2): "budget"}
    fourth = (await auto(process, support(cats=2, dogs=2), name="of another size")).latest.selection or {}
    assert names(fourth["tried"]) == [("best", 1)]


async def test_what_was_slow_once_is_tried_again_after_a_while(choice: World, monkeypatch: pytest.MonkeyPatch) -> None:
    process = await timed(choice, monkeypatch, best=400.0)
    await auto(process, support(cats=8, dogs=8))
    process.engine.clock_ms += 1000 * REMEMBERED_S
    process.engine.score_ms = {}
    later = (await auto(process, support(cats=8, dogs=8), name="later")).latest.selection or {}
    assert names(later["tried"])[0] == ("best", 1)
    assert later["not_tried"] == []


@pytest.mark.parametrize(("loss", "chosen"), [(0.15, "zeal"), (3.0, "best")])
async def test_one_too_slow_to_try_is_taken_where_those_tried_are_much_poorer_than_its_card(
    choice: World, monkeypatch: pytest.MonkeyPatch, loss: float, chosen: str
) -> None:
    process = await timed(choice, monkeypatch, best=400.0)
    process.engine.held_out = {("best", 1): 9.0, ("best", 2): 9.0}
    for name in ("first", "second"):
        await auto(process, support(cats=8, dogs=8), name=name)
    process.engine.held_out = {("zeal", 1): loss, ("zeal", 2): loss, ("protonet", 1): 2.0, ("protonet", 2): 2.0}
    selection = (await auto(process, support(cats=8, dogs=8), name="third")).latest.selection or {}
    assert ("best", 1) not in names(selection["tried"])
    assert selection["chosen"]["initializer"] == chosen


async def test_a_choice_that_fails_on_the_whole_support_set_gives_way_to_the_next_best(choice: World) -> None:
    choice.engine.held_out = {("best", 1): 0.1, ("zeal", 1): 0.2, ("zeal", 2): 0.3}
    choice.engine.fails = {"best": AdaptationFailed("the inner loop diverged")}
    task = await auto(choice, support(cats=8, dogs=8), query=CATS)
    selection = task.latest.selection or {}
    assert (task.latest.status, str(task.latest.initializer)) == (Status.READY, "zeal@1")
    assert selection["chosen"] == {"initializer": "zeal", "version": 1, "steps": 1}
    assert selection["failed"] == [
        {"initializer": "best", "version": 1, "steps": 1, "reason": "adaptation_failed", "detail": "the inner loop diverged"}
    ]
    assert [answers.initializer.name for answers in (await choice.predictions.list(ANN, task.id)).rows] == ["zeal"]
    fresh = build_world(choice.database, choice.folder)
    await fresh.initializers.bootstrap()
    before = await choice.predict(ANN, task.id, CATS)
    assert (await fresh.predict(ANN, task.id, CATS)).predictions == before.predictions


async def test_two_fallbacks_are_tried_and_then_the_task_fails(choice: World) -> None:
    write_initializer(choice.folder, "spare")
    await choice.initializers.reload("spare")
    fault = AdaptationFailed("no")
    choice.engine.fails = {"best": InitializerRejected("wrong digest"), "zeal": fault}
    task = await auto(choice, support())
    assert (task.latest.status, str(task.latest.initializer)) == (Status.READY, "protonet@1")
    assert [each["reason"] for each in (task.latest.selection or {})["failed"]] == ["initializer_rejected", "adaptation_failed"]
    choice.engine.fails["protonet"] = fault
    gone = (await auto(choice, support(), name="another")).latest
    assert (gone.status, gone.error_code, str(gone.initializer)) == (Status.FAILED, "adaptation_failed", "protonet@1")
    choice.engine.fails = {"best": fault}
    named, _ = await choice.tasks.create(ANN, new_task(initializer="best"))
    await choice.work()
    assert (await choice.tasks.get(ANN, named.id)).latest.status is Status.FAILED


async def test_of_two_workers_one_that_fell_back_is_not_finished_for_by_one_that_did_not(choice: World) -> None:
    other = build_world(choice.database, choice.folder, cache=choice.cache)
    await other.initializers.bootstrap()
    choice.engine.fails = {"best": AdaptationFailed("no room here")}
    other.engine.gate.clear()
    task, _ = await choice.tasks.create(ANN, new_task(initializer="auto"))
    slow = asyncio.create_task(other.adaptations.run(task.id, 1))
    await asyncio.wait_for(other.engine.asked.wait(), 5)
    choice.engine.gate.clear()
    running = asyncio.create_task(choice.adaptations.run(task.id, 1))
    while str((await choice.tasks.get(ANN, task.id)).latest.initializer) != "zeal@1":
        choice.engine.gate.set()
        await asyncio.sleep(0.001)
        choice.engine.gate.clear()
    other.engine.gate.set()
    await slow
    choice.engine.gate.set()
    await running
    row = (await choice.tasks.get(ANN, task.id)).latest
    assert (row.status, str(row.initializer)) == (Status.READY, "zeal@1")
    assert (await other.predict(ANN, task.id, CATS)).initializer.name == "zeal"


async def test_the_time_of_the_choice_is_one_of_the_phases(choice: World) -> None:
    task = await auto(choice, support(cats=2, dogs=2))
    assert list(task.latest.timings_ms) == ["queue_wait", "choose", "queue", "batch", "device", "encode", "store"]
    assert task.latest.timings_ms["choose"] >= (task.latest.selection or {})["ms"]
