from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import update

from app.db.session import Database
from app.db.tables import InitializerVersionRow
from app.domain import InitializerRef
from app.errors import InitializerRejected, NotFound
from tests.app.services.world import ANN, CATS, World, build_world, new_task, write_initializer

ONE, TWO = InitializerRef("protonet", 1), InitializerRef("protonet", 2)


async def test_bootstrap_registers_every_folder_as_version_one_and_installs_it(world: World) -> None:
    infos = await world.initializers.list()
    assert [(str(info.ref), info.kind) for info in infos] == [("protonet@1", "classification"), ("sine@1", "regression")]
    assert {info.ref for info in infos} == world.engine.installed()


async def test_bootstrapping_again_changes_nothing(world: World, second: World) -> None:
    assert [info.ref.version for info in await second.initializers.list()] == [1, 1]


async def test_processes_that_bootstrap_together_register_one_version(database: Database, tmp_path: Path) -> None:
    write_initializer(tmp_path, "matchingnet")
    processes = [build_world(database, tmp_path) for _ in range(4)]
    await asyncio.gather(*(process.initializers.bootstrap() for process in processes))
    assert await processes[0].initializers.versions("matchingnet") == [1]


async def test_a_process_with_older_files_does_not_turn_the_pointer_back(world: World, tmp_path: Path) -> None:
    write_initializer(world.folder, gain=2.0)
    await world.initializers.reload("protonet")
    write_initializer(tmp_path / "old", "protonet", gain=1.0)
    late = build_world(world.database, tmp_path / "old")
    await late.initializers.bootstrap()
    assert (await world.initializers.get("protonet")).ref == TWO
    assert late.engine.gains[TWO] == 2.0


async def test_new_bytes_become_the_next_version_and_new_tasks_name_it(world: World) -> None:
    write_initializer(world.folder, gain=2.0)
    outcome = await world.initializers.reload("protonet")
    assert (outcome.old, outcome.new, outcome.changed) == (ONE, TWO, True)
    assert (await world.initializers.get("protonet")).ref == TWO
    assert (await world.initializers.get("protonet", 1)).ref == ONE
    task, _ = await world.tasks.create(ANN, new_task())
    assert task.latest.initializer == TWO


async def test_a_card_that_changed_with_the_same_weights_is_a_new_version(world: World) -> None:
    write_initializer(world.folder, default_steps=3)
    assert (await world.initializers.reload("protonet")).changed
    assert (await world.initializers.get("protonet")).default_steps == 3


async def test_reloading_the_same_bytes_changes_nothing(world: World) -> None:
    outcome = await world.initializers.reload("protonet")
    assert (outcome.old, outcome.new, outcome.changed) == (ONE, ONE, False)


async def test_a_new_folder_is_registered_by_a_reload(world: World) -> None:
    write_initializer(world.folder, "newcomer")
    outcome = await world.initializers.reload("newcomer")
    assert (outcome.old, str(outcome.new), outcome.changed) == (None, "newcomer@1", True)


@pytest.mark.parametrize("name", ["nope", "../protonet", "", "a/b"])
async def test_an_unknown_name_is_not_found(world: World, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        await world.initializers.reload(name)
    assert caught.value.code == "initializer_not_found"


@pytest.mark.parametrize("broken", ["weights", "card", "not json", "missing"])
async def test_a_bad_folder_is_rejected_and_the_old_version_stays(world: World, broken: str) -> None:
    folder = world.folder / "protonet"
    if broken == "weights":
        (folder / "initializer.safetensors").write_bytes(b"3.0")  # the card's digest is of other bytes
    elif broken == "card":
        write_initializer(world.folder, gain=2.0, limits={})
    elif broken == "not json":
        (folder / "card.json").write_text("{")
    else:
        (folder / "initializer.safetensors").unlink()
    with pytest.raises(InitializerRejected) as caught:
        await world.initializers.reload("protonet")
    assert (caught.value.code, caught.value.status) == ("initializer_rejected", 409)
    assert (await world.initializers.get("protonet")).ref == ONE
    with pytest.raises(NotFound):
        await world.initializers.get("protonet", 2)
    write_initializer(world.folder, gain=2.0)  # mended; a rejected number is never used again
    assert (await world.initializers.reload("protonet")).new.version == (3 if broken == "weights" else 2)


@pytest.mark.parametrize(
    "confidence",
    [
        {"validation": [{"n_way": 2, "k_shot": 1}]},
        {"validation": [{"n_way": 1, "k_shot": 1, "loss": 0.1}]},
        {"validation": [{"n_way": 2, "k_shot": 0, "loss": 0.1}]},
        {"validation": [{"n_way": 2, "k_shot": 1, "loss": "0.1"}]},
        {"validation": [{"n_way": 2, "k_shot": 1, "loss": None}]},
        {"validation": {"n_way": 2}},
        {"validation": 3},
        [],
    ],
)
async def test_figures_that_auto_cannot_compare_by_are_rejected(world: World, confidence: object) -> None:
    write_initializer(world.folder, gain=2.0, confidence=confidence)
    with pytest.raises(InitializerRejected, match="lacks or garbles"):
        await world.initializers.reload("protonet")
    assert (await world.initializers.get("protonet")).ref == ONE


async def test_a_card_stored_before_it_was_checked_hinders_no_other(world: World) -> None:
    async with world.database.write() as session:
        spoilt = update(InitializerVersionRow).where(InitializerVersionRow.name == "sine")
        await session.execute(spoilt.values(card={"confidence": {"validation": [{}]}}))
    late = build_world(world.database, world.folder)
    assert [info.ref.name for info in await late.initializers.list()] == ["protonet"]
    task, _ = await late.tasks.create(ANN, new_task(initializer="auto"))
    assert task.latest.initializer == ONE


async def test_no_initializer_takes_the_name_that_stands_for_the_choice(world: World) -> None:
    write_initializer(world.folder, "auto")
    with pytest.raises(InitializerRejected, match="leave the choice"):
        await world.initializers.reload("auto")
    assert "auto" not in [info.ref.name for info in await world.initializers.list()]


async def test_reloads_at_the_same_moment_meet_on_one_version(world: World, second: World) -> None:
    write_initializer(world.folder, gain=2.0)
    outcomes = await asyncio.gather(*(process.initializers.reload("protonet") for process in (world, second, world, second)))
    assert {outcome.new for outcome in outcomes} == {TWO}
    assert world.engine.gains[TWO] == second.engine.gains[TWO] == 2.0


async def test_an_eager_reload_re_adapts_every_live_task(world: World) -> None:
    made = [await world.tasks.create(ANN, new_task(name=f"n{i}")) for i in range(3)]
    await world.work()
    write_initializer(world.folder, gain=2.0)
    outcome = await world.initializers.reload("protonet", readapt="eager")
    assert outcome.readapting == 3
    await world.work()
    for task, _ in made:
        serving = (await world.tasks.get(ANN, task.id)).serving
        assert serving is not None
        assert serving.initializer == TWO


async def test_an_install_is_done_once_however_many_wait_for_it(world: World, second: World) -> None:
    await second.engine.retire(ONE)
    before = second.engine.installs
    await asyncio.gather(*(second.initializers.ensure_installed(ONE) for _ in range(10)))
    assert second.engine.installs == before + 1


async def test_refresh_installs_what_another_process_reloaded_and_retires_what_no_task_uses(world: World, second: World) -> None:
    write_initializer(world.folder, gain=2.0)
    await world.initializers.reload("protonet")
    await second.initializers.refresh()
    assert (TWO in second.engine.installed(), ONE in second.engine.installed()) == (True, False)


async def test_refresh_keeps_a_version_that_a_task_is_served_by(world: World) -> None:
    await world.tasks.create(ANN, new_task())
    await world.work()
    write_initializer(world.folder, gain=2.0)
    await world.initializers.reload("protonet")
    await world.initializers.refresh()
    assert ONE in world.engine.installed()


async def test_reloads_during_steady_traffic_fail_no_request_and_no_answer_names_a_version_it_is_not_from(world: World) -> None:
    names = [f"n{i}" for i in range(6)]
    tasks = [(await world.tasks.create(ANN, new_task(name=name)))[0].id for name in names]
    await world.work()
    done = asyncio.Event()

    async def keep_predicting(task_id: str) -> int:
        answered = 0
        while not done.is_set():
            answer = await world.predict(ANN, task_id, CATS)
            gain = float(answer.initializer.version)  # version n was written with gain n
            near, far = np_square(gain * 0.0, gain * 0.1), np_square(gain * 1.0, gain * 0.9)
            share = (answer.predictions[0].probabilities or {})["cat"]
            assert share == pytest.approx(1 / (1 + 2.718281828459045 ** (near - far)), abs=1e-4)
            answered += 1
            await asyncio.sleep(0.001)  # six callers without a pause leave the threads of SQLite no interpreter
        return answered

    async def reload_all() -> None:
        for gain in range(2, 12):
            write_initializer(world.folder, gain=float(gain))
            await world.initializers.reload("protonet")
            await world.work()
            await world.initializers.refresh()
        done.set()

    answered, *_ = await asyncio.gather(asyncio.gather(*map(keep_predicting, tasks)), reload_all())
    assert min(answered) > 0
    assert (await world.initializers.get("protonet")).ref.version == 11


def np_square(dx: float, dy: float) -> float:
    return dx * dx + dy * dy
