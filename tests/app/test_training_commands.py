from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from app import errors, training_commands
from app.domain import InitializerRef, TaskOptions
from app.engine.interface import inspect
from app.services.support_rules import check_options
from models.artifact import BUNDLED
from tests.models.small_data import omniglot_recipe, sinusoid_recipe, write_small_omniglot, write_toml


@pytest.fixture
def cli() -> typer.Typer:
    cli = typer.Typer()
    training_commands.register(cli)
    return cli


def test_a_trained_initializer_is_evaluated_into_one_json_object(cli: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_omniglot(tmp_path)
    monkeypatch.setenv("INNERLOOP_DATA_DIR", str(tmp_path))
    recipe = write_toml(tmp_path / "recipe.toml", omniglot_recipe())
    trained = CliRunner().invoke(cli, ["train", str(recipe), "--out", str(tmp_path / "run")])
    assert trained.exit_code == 0, trained.output
    assert trained.stdout.strip() == str(tmp_path / "run" / "initializer")
    arguments = ["evaluate", str(tmp_path / "run"), "--way", "3", "--shot", "2", "--episodes", "20", "--json"]
    evaluated = CliRunner().invoke(cli, arguments)
    assert evaluated.exit_code == 0, evaluated.output
    row = json.loads(evaluated.stdout)
    assert evaluated.stdout.count("\n") == 1
    assert (row["name"], row["way"], row["shot"], row["episodes"]) == ("small-omniglot", 3, 2, 20)
    assert row["accuracy"] == pytest.approx(row["accuracy_transductive"])
    assert 60 < row["accuracy"] <= 100
    assert 0 <= row["ci95"] < 20
    assert row["rotated_classes"] is True


def test_a_regression_initializer_is_evaluated_into_a_table(cli: typer.Typer, tmp_path: Path) -> None:
    recipe = write_toml(tmp_path / "recipe.toml", sinusoid_recipe())
    assert CliRunner().invoke(cli, ["train", str(recipe), "--out", str(tmp_path / "run")]).exit_code == 0
    evaluated = CliRunner().invoke(cli, ["evaluate", str(tmp_path / "run" / "initializer"), "--episodes", "20"])
    assert "small-sinusoid" in evaluated.stdout
    assert "MSE" in evaluated.stdout


def test_a_stopped_training_prints_the_command_that_goes_on(cli: typer.Typer, tmp_path: Path) -> None:
    recipe = write_toml(tmp_path / "recipe.toml", sinusoid_recipe())
    stopped = CliRunner().invoke(cli, ["train", str(recipe), "--out", str(tmp_path / "run"), "--max-seconds", "0"])
    assert stopped.exit_code == 0
    command = stopped.stdout.split()
    assert command[:2] == ["innerloop", "train"]
    resumed = CliRunner().invoke(cli, command[1:])
    assert resumed.exit_code == 0, resumed.output
    assert (tmp_path / "run" / "initializer" / "card.json").exists()


@pytest.mark.parametrize("arguments", [["train", "nonsense"], ["evaluate", "nonsense"], ["train", "sinusoid-maml", "--steps", "0"]])
def test_what_is_refused_is_told_in_one_line_with_status_1(cli: typer.Typer, arguments: list[str]) -> None:
    refused = CliRunner().invoke(cli, arguments)
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1
    assert refused.stderr.startswith("Invalid") or refused.stderr.startswith("DataUnavailable")


@pytest.mark.parametrize("name", ["omniglot-protonet", "sinusoid-ridge"])
def test_steps_of_a_learner_that_takes_none_are_refused_in_the_words_of_the_service(cli: typer.Typer, name: str) -> None:
    refused = CliRunner().invoke(cli, ["evaluate", name, "--steps", "3"])
    assert refused.exit_code == 1
    assert refused.stdout == ""
    card = json.loads((BUNDLED / name / "card.json").read_text())
    with pytest.raises(errors.InvalidOptions) as told:
        check_options(TaskOptions(steps=3), inspect(card, InitializerRef(name, 1)))
    assert refused.stderr == f"InvalidOptions: {told.value}\n"


def test_an_initializer_is_evaluated_on_another_source(cli: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_omniglot(tmp_path)
    monkeypatch.setenv("INNERLOOP_DATA_DIR", str(tmp_path))
    recipe = write_toml(tmp_path / "recipe.toml", {**omniglot_recipe(meta_steps=1), "evaluation": []})
    assert CliRunner().invoke(cli, ["train", str(recipe), "--out", str(tmp_path / "run")]).exit_code == 0
    arguments = ["evaluate", str(tmp_path / "run"), "--shot", "5", "--episodes", "20", "--json", "--data"]
    row = json.loads(CliRunner().invoke(cli, [*arguments, "digits"]).stdout)
    assert (row["data"], row["rotated_classes"]) == ("digits", False)
    assert row["accuracy"] > 30  # chance is 20
    refused = CliRunner().invoke(cli, [*arguments, "sinusoid"])
    assert refused.exit_code == 1
    assert refused.stderr.startswith("InvalidOptions: small-omniglot does classification of (1, 28, 28)")


def test_an_architecture_is_fixed_into_a_folder(cli: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_omniglot(tmp_path)
    monkeypatch.setenv("INNERLOOP_DATA_DIR", str(tmp_path))
    tables = {**omniglot_recipe(meta_steps=2), "evaluation": []}
    tables["learner"]["backbone"] = {"kind": "gated-conv4", "filters": 8, "groups": 4}
    assert CliRunner().invoke(cli, ["train", str(write_toml(tmp_path / "r.toml", tables)), "--out", str(tmp_path / "run")]).exit_code == 0
    fixed = CliRunner().invoke(cli, ["fix-architecture", str(tmp_path / "run"), "--out", str(tmp_path / "fixed")])
    assert fixed.exit_code == 0, fixed.output
    assert fixed.stdout.strip() == str(tmp_path / "fixed")
    assert "Channels of the blocks: [8, 8, 8, 8]; with a residual convolution: [2, 3, 4]" in fixed.stderr
    again = CliRunner().invoke(cli, ["fix-architecture", str(tmp_path / "fixed"), "--out", str(tmp_path / "twice")])
    assert again.exit_code == 1
    assert again.stderr.startswith("InvalidOptions: small-omniglot has no gates to fix")
