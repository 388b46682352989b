"""Initializers judged on another source than the one they were meta-trained on."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from models.artifact import Initializer, list_bundled, load_initializer
from models.episodes.location import find_data_folder
from models.errors import InvalidOptions
from models.evaluation import evaluate
from models.training import train
from tests.models.small_data import omniglot_recipe, write_small_emoji, write_small_icons, write_small_omniglot, write_toml


@pytest.fixture
def initializer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Initializer:
    write_small_omniglot(tmp_path)
    write_small_icons(tmp_path)
    write_small_emoji(tmp_path)
    monkeypatch.setenv("INNERLOOP_DATA_DIR", str(tmp_path))
    recipe = write_toml(tmp_path / "recipe.toml", {**omniglot_recipe(meta_steps=1), "evaluation": []})
    outcome = train(recipe, out=tmp_path / "run", console=Console(file=io.StringIO()))
    assert outcome.initializer is not None
    return load_initializer(outcome.initializer)


def test_an_initializer_is_evaluated_on_other_images_of_its_shape(initializer: Initializer) -> None:
    own = evaluate(initializer, n_way=3, k_shot=1, n_query=2, episodes=20)
    icons = evaluate(initializer, n_way=3, k_shot=1, n_query=2, episodes=20, data="icons")
    digits = evaluate(initializer, n_way=3, k_shot=5, n_query=5, episodes=20, data="digits")
    assert (own.rotated_classes, icons.rotated_classes, digits.rotated_classes) == (True, False, False)
    assert digits.accuracy is not None
    assert 40 < digits.accuracy < 100


def test_images_of_another_shape_are_refused(initializer: Initializer) -> None:
    with pytest.raises(InvalidOptions, match=r"does classification of \(1, 28, 28\); emoji is classification of \(3, 32, 32\)"):
        evaluate(initializer, n_way=3, k_shot=1, n_query=2, episodes=20, data="emoji")


def test_digits_cannot_be_chosen_on(initializer: Initializer) -> None:
    with pytest.raises(InvalidOptions, match="all ten are test classes"):
        evaluate(initializer, n_way=3, k_shot=1, episodes=20, data="digits", split="validation")


def test_the_bundled_prototypes_recognise_icons_though_they_have_seen_none() -> None:
    if not (find_data_folder() / "icons28.npz").exists():
        pytest.skip(f"SKIPPED-DATA: {find_data_folder() / 'icons28.npz'} is not there")
    [folder] = [folder for folder in list_bundled() if folder.name == "omniglot-protonet"]
    row = evaluate(load_initializer(folder), n_way=5, k_shot=1, episodes=50, data="icons")
    assert row.accuracy is not None
    assert row.accuracy > 40  # chance is 20
