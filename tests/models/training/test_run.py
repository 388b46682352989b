from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from models.artifact import load_initializer
from models.errors import CheckpointCorrupt, InvalidOptions, InvalidRecipe
from models.training import Outcome, train
from models.training.checkpoint import FILE, load_checkpoint, save_checkpoint
from models.training.log import read_log
from tests.models.small_data import omniglot_recipe, sinusoid_recipe, write_small_omniglot, write_toml


@pytest.fixture(autouse=True)
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_omniglot(tmp_path)
    monkeypatch.setenv("INNERLOOP_DATA_DIR", str(tmp_path))


def run(recipe: Path, out: Path, **options: Any) -> tuple[Outcome, str]:
    """The outcome, and what was shown."""
    shown = io.StringIO()
    return train(recipe, out=out, console=Console(file=shown, width=200), **options), shown.getvalue()


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Sends a signal in the middle of a given meta-step, once."""
    from models.training.outer_loop import OuterLoop

    original = OuterLoop.advance

    def advance(loop: OuterLoop) -> tuple[float, float]:
        if loop.step == step:
            monkeypatch.undo()
            os.kill(os.getpid(), number)
        return original(loop)

    monkeypatch.setattr(OuterLoop, "advance", advance)


@pytest.mark.parametrize(
    ("tables", "number"), [(sinusoid_recipe(), signal.SIGINT), (omniglot_recipe(), signal.SIGTERM)], ids=["sinusoid", "omniglot"]
)
def test_a_training_interrupted_and_resumed_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: dict[str, Any], number: signal.Signals
) -> None:
    recipe = write_toml(tmp_path / "recipe.toml", tables)
    straight, _ = run(recipe, tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setenv("INNERLOOP_DATA_DIR", str(tmp_path))
        interrupt_at(patch, 5, number)
        stopped, _ = run(recipe, tmp_path / "resumed")
    assert stopped.step == 6  # the step in which the signal came was finished
    assert stopped.stopped_by == f"{number.name} received"
    assert stopped.resume_command == f"innerloop train {recipe} --out {tmp_path / 'resumed'} --resume"
    monkeypatch.setenv("INNERLOOP_DATA_DIR", str(tmp_path))
    resumed, _ = run(recipe, tmp_path / "resumed", resume=True)
    assert resumed.step == 12
    ends = [load_checkpoint(folder) for folder in (tmp_path / "straight", tmp_path / "resumed")]
    for group, tensors in ends[0].tensors.items():
        assert all(torch.equal(tensor, ends[1].tensors[group][name]) for name, tensor in tensors.items())
    assert torch.equal(ends[0].generator, ends[1].generator)
    assert straight.card is not None
    assert resumed.card is not None
    assert straight.card.sha256 == resumed.card.sha256
    logs = [read_log(folder) for folder in (tmp_path / "straight", tmp_path / "resumed")]
    assert [(row.step, row.loss, row.validation) for row in logs[0]] == [(row.step, row.loss, row.validation) for row in logs[1]]


def test_the_end_is_an_initializer_with_its_evidence(tmp_path: Path) -> None:
    recipe = write_toml(tmp_path / "recipe.toml", omniglot_recipe())
    outcome, shown = run(recipe, tmp_path / "out", threads=1)
    assert outcome.initializer == tmp_path / "out" / "initializer"
    card = load_initializer(outcome.initializer).card
    assert card == outcome.card
    assert card.name == "small-omniglot"
    assert card.trained_with == "innerloop train recipe.toml --threads 1"
    assert card.input.kind == "image"
    assert card.limits.max_way == 20
    assert card.seed == 3
    assert 0 < card.train_seconds < 60
    assert card.accuracy[0]["split"] == "test"
    assert card.accuracy[0]["episodes"] == 10
    assert card.accuracy[0]["accuracy"] > 60  # the classes are easy: coarse patterns with little noise
    assert "step 12/12  loss" in shown
    assert "validation" in shown
    assert (tmp_path / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [row.step for row in read_log(tmp_path / "out")] == [4, 8, 12]


def test_the_best_weights_on_validation_are_kept_when_the_recipe_says_so(tmp_path: Path) -> None:
    outcome, _ = run(write_toml(tmp_path / "recipe.toml", omniglot_recipe()), tmp_path / "out")
    checkpoint = load_checkpoint(tmp_path / "out")
    best = max(row.validation or 0.0 for row in read_log(tmp_path / "out"))
    assert checkpoint.progress.best_score == pytest.approx(best, abs=1e-3)
    assert outcome.card is not None
    assert outcome.card.meta_steps == checkpoint.progress.best_step
    assert outcome.initializer is not None
    params = load_initializer(outcome.initializer).params
    assert all(torch.equal(params[name], tensor) for name, tensor in checkpoint.tensors["best"].items())


def test_time_that_is_up_stops_resumably(tmp_path: Path) -> None:
    outcome, _ = run(write_toml(tmp_path / "recipe.toml", sinusoid_recipe(meta_steps=10**6)), tmp_path / "out", max_seconds=0.3)
    assert outcome.stopped_by == "time is up"
    assert 0 < outcome.step < 10**6
    assert load_checkpoint(tmp_path / "out").progress.step == outcome.step


def test_a_training_off_the_main_thread_needs_no_signals(tmp_path: Path) -> None:
    recipe = write_toml(tmp_path / "recipe.toml", sinusoid_recipe())
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run(recipe, tmp_path / "out")[0]))
    thread.start()
    thread.join()
    assert outcomes[0].step == 12


def test_the_handlers_of_before_are_back_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(write_toml(tmp_path / "recipe.toml", sinusoid_recipe(meta_steps=1)), tmp_path / "out")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_steps_and_seed_of_the_caller_replace_the_recipes(tmp_path: Path) -> None:
    recipe = write_toml(tmp_path / "recipe.toml", sinusoid_recipe())
    one, _ = run(recipe, tmp_path / "one", steps=3, seed=1)
    two, _ = run(recipe, tmp_path / "two", steps=3, seed=2)
    same, _ = run(recipe, tmp_path / "same", steps=3, seed=1)
    cards = [outcome.card for outcome in (one, two, same)]
    assert [card.meta_steps for card in cards if card] == [3, 3, 3]
    digests = [card.sha256 for card in cards if card]
    assert digests[0] == digests[2] != digests[1]


def test_a_training_goes_on_for_longer_when_asked(tmp_path: Path) -> None:
    recipe = write_toml(tmp_path / "recipe.toml", sinusoid_recipe())
    run(recipe, tmp_path / "out")
    longer, _ = run(recipe, tmp_path / "out", resume=True, steps=20)
    assert longer.step == 20
    assert longer.card is not None
    assert longer.card.trained_with == "innerloop train recipe.toml; then --resume --steps 20"


def test_a_training_starts_from_the_weights_of_an_initializer(tmp_path: Path) -> None:
    recipe = write_toml(tmp_path / "recipe.toml", sinusoid_recipe(ema_decay=0))
    first, _ = run(recipe, tmp_path / "first")
    gentle = write_toml(tmp_path / "gentle.toml", sinusoid_recipe(ema_decay=0, learning_rate=1e-9))
    second, _ = run(gentle, tmp_path / "second", init_from=first.initializer, steps=1)
    assert first.initializer is not None
    assert second.initializer is not None
    before, after = load_initializer(first.initializer).params, load_initializer(second.initializer).params
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in before)


def test_an_initializer_of_another_learner_cannot_be_started_from(tmp_path: Path) -> None:
    first, _ = run(write_toml(tmp_path / "recipe.toml", sinusoid_recipe()), tmp_path / "first", steps=1)
    with pytest.raises(InvalidOptions, match="has other weights than the recipe's learner"):
        run(write_toml(tmp_path / "other.toml", omniglot_recipe()), tmp_path / "second", init_from=first.initializer)


def test_a_folder_with_a_training_is_not_begun_anew(tmp_path: Path) -> None:
    recipe = write_toml(tmp_path / "recipe.toml", sinusoid_recipe())
    run(recipe, tmp_path / "out", steps=1)
    with pytest.raises(InvalidOptions, match="continue it with --resume, or choose another --out"):
        run(recipe, tmp_path / "out")


def test_a_folder_without_a_training_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointCorrupt, match="nothing to resume"):
        run(write_toml(tmp_path / "recipe.toml", sinusoid_recipe()), tmp_path / "out", resume=True)


def test_a_training_is_not_resumed_under_another_recipe(tmp_path: Path) -> None:
    run(write_toml(tmp_path / "recipe.toml", sinusoid_recipe()), tmp_path / "out", max_seconds=0)
    changed = write_toml(tmp_path / "changed.toml", sinusoid_recipe(learning_rate=2e-3))
    with pytest.raises(InvalidRecipe, match="outer differs from the checkpoint's"):
        run(changed, tmp_path / "out", resume=True)
    other = write_toml(tmp_path / "other.toml", {**sinusoid_recipe(), "episodes": {"k_shot": 6, "n_query": 5, "tasks": 4}})
    with pytest.raises(InvalidRecipe, match="episodes differs"):
        run(other, tmp_path / "out", resume=True)


def test_data_that_do_not_suit_the_learner_are_refused(tmp_path: Path) -> None:
    tables = {**sinusoid_recipe(), "data": {"source": "omniglot"}}
    with pytest.raises(InvalidRecipe, match="learner must do classification"):
        run(write_toml(tmp_path / "recipe.toml", tables), tmp_path / "out")


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    run(write_toml(tmp_path / "recipe.toml", sinusoid_recipe()), tmp_path / "out", steps=1)
    path = tmp_path / "out" / FILE
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointCorrupt, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "out")


def test_a_checkpoint_that_fails_to_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(write_toml(tmp_path / "recipe.toml", sinusoid_recipe()), tmp_path / "out", steps=2)
    before = load_checkpoint(tmp_path / "out")

    def fail(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr("models.training.checkpoint.write_durably", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tmp_path / "out", before)
    assert load_checkpoint(tmp_path / "out").progress == before.progress
