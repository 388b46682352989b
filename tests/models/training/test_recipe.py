from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.artifact import list_bundled, read_card
from models.errors import InvalidRecipe
from models.training import list_recipes, read_recipe
from models.training.recipe import parse_recipe
from tests.models.small_data import omniglot_recipe, sinusoid_recipe, write_toml


@pytest.mark.parametrize("name", ["omniglot-maml", "omniglot-protonet", "sinusoid-maml"])
def test_the_bundled_recipes_are_read_by_name(name: str) -> None:
    assert name in list_recipes()
    assert read_recipe(name).name == name


def test_a_recipe_is_the_same_after_its_way_through_json() -> None:
    recipe = parse_recipe(omniglot_recipe())
    assert parse_recipe(recipe.to_json()) == recipe


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    path = write_toml(tmp_path / "mine.toml", omniglot_recipe())
    assert read_recipe(path) == parse_recipe(omniglot_recipe())


def test_the_limits_say_why_in_a_note_that_the_card_keeps() -> None:
    tables = omniglot_recipe()
    assert parse_recipe(tables).limits.note is None
    tables["limits"]["note"] = "Beyond it is slow."
    recipe = parse_recipe(parse_recipe(tables).to_json())
    assert recipe.limits.note == "Beyond it is slow."


@pytest.mark.parametrize("folder", [folder for folder in list_bundled() if folder.name in list_recipes()], ids=lambda folder: folder.name)
def test_a_bundled_card_has_the_limits_of_its_recipe_and_their_note(folder: Path) -> None:
    assert read_card(folder).limits == read_recipe(folder.name).limits


@pytest.mark.parametrize(
    ("table", "key", "value", "complaint"),
    [
        (None, "colour", 1, "colour is unknown; the keys here are"),
        ("outer", "speed", 1, r"outer\.speed is unknown"),
        ("outer", "meta_steps", 0, r"outer\.meta_steps must be above 0"),
        ("outer", "meta_steps", 1.5, r"outer\.meta_steps must be int, got 1\.5"),
        ("outer", "meta_steps", True, r"outer\.meta_steps must be int, got True"),
        ("outer", "learning_rate", "fast", r"outer\.learning_rate must be float, got 'fast'"),
        ("outer", "learning_rate", float("nan"), r"outer\.learning_rate must be above 0 and finite"),
        ("outer", "warmup", -1, r"outer\.warmup must be at least 0"),
        ("outer", "ema_decay", 1.0, r"outer\.ema_decay must be below 1"),
        ("validation", "keep", "worst", r"validation\.keep must be one of \['best', 'last'\]"),
        ("validation", "n_way", 1, r"validation\.n_way must be at least 2"),
        ("data", "source", "imagenet", r"data\.source must be one of"),
        ("data", "augment", {"blur": 1}, r"data\.augment\.blur is unknown"),
        ("learner", "method", "magic", "learner: method must be one of"),
        (None, "episodes", [], "episodes must hold at least one table"),
        (None, "episodes", [{"k_shot": 1, "n_query": 1, "tasks": 0}], r"episodes\[0\]\.tasks must be above 0"),
        (None, "evaluation", {}, "evaluation must be a list of tables"),
        (None, "learner", 1, "learner must be a table, got int"),
        (None, "limits", [], "limits must be a table, got list"),
        ("limits", "note", 3, r"limits\.note must be str, got 3"),
    ],
)
def test_a_fault_is_told_with_its_key(table: str | None, key: str, value: Any, complaint: str) -> None:
    tables = omniglot_recipe()
    (tables[table] if table else tables)[key] = value
    with pytest.raises(InvalidRecipe, match=complaint):
        parse_recipe(tables)


def test_a_missing_key_is_named() -> None:
    tables = sinusoid_recipe()
    del tables["outer"]["learning_rate"]
    with pytest.raises(InvalidRecipe, match=r"outer\.learning_rate is missing"):
        parse_recipe(tables)


def test_what_is_no_recipe_says_which_recipes_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe, match=r"neither a file nor one of the bundled recipes.*omniglot-maml"):
        read_recipe("omniglot-magic")
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(InvalidRecipe, match=r"broken\.toml is not TOML"):
        read_recipe(tmp_path / "broken.toml")
