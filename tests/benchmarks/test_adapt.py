from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from benchmarks.adapt import OPTIONS, compare_weights, count_timed, list_settings, make_of_first, our_adaptation
from benchmarks.adapt_peers import plain_loop
from benchmarks.catalogue import Refused
from benchmarks.contenders import check_gradients, check_weights, open_peers
from benchmarks.few_shot import Problem, make_problem
from benchmarks.harness import Disagreement
from benchmarks.plain_conv4 import stack_weights, to_state
from models.episodes import EpisodeShape
from models.support import Params


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem("maml", "pool", EpisodeShape(5, 2, 1, 2), 5, **OPTIONS["maml"]).to_float64(2)


def test_the_plain_loop_walks_our_way_and_both_move(problem: Problem) -> None:
    """With several shots and pooling; the factor of the plain head stands for the mean objective of our body."""
    tasks = plain_loop(problem)()
    assert isinstance(tasks, list)
    theirs, ours = to_state(problem.make_plain(), stack_weights(tasks)), our_adaptation(problem)()
    assert check_weights("plain loop", theirs, ours, 1e-5) <= 1e-5
    assert all((ours[name] - start).abs().max() > 1e-3 for name, start in problem.params.items() if name.endswith("conv4.weight"))
    assert ours["class.weight"].abs().max() > 1e-2


def test_a_peer_that_computes_something_else_is_refused(problem: Problem) -> None:
    ours = our_adaptation(problem)()
    with pytest.raises(Disagreement) as refusal:
        check_weights("hasty", {**ours, "class.bias": ours["class.bias"] + 0.01}, ours, 1e-4)
    assert "class.bias" in str(refusal.value)
    with pytest.raises(Disagreement):
        check_weights("forgetful", {}, ours, 1e-4)
    with pytest.raises(Disagreement):
        check_weights("diverged", {name: tensor * torch.nan for name, tensor in ours.items()}, ours, 1e-4)
    assert issubclass(Disagreement, Refused)


def test_gradients_are_compared_relative_to_their_length() -> None:
    ours: Params = {"a": torch.tensor([3e-6, 4e-6])}
    assert check_gradients("near", {"a": torch.tensor([3e-6, 4.001e-6])}, ours, 1e-3) == pytest.approx(2e-4, rel=0.01)
    with pytest.raises(Disagreement):
        check_gradients("far", {"a": torch.tensor([3e-6, 5e-6])}, ours, 1e-3)


def test_a_peer_that_is_not_installed_is_told_and_the_others_take_part(problem: Problem) -> None:
    def absent(problem: Problem) -> None:
        raise ModuleNotFoundError("No module named 'absent'")

    field = open_peers({"absent": absent, "here": lambda _: lambda: None}, problem, lambda name, result: 0.0)  # type: ignore[dict-item]
    assert set(field.peers) == {"here"}
    assert field.missing == {"absent": "ModuleNotFoundError: No module named 'absent'"}


def test_a_peer_is_timed_on_the_first_tasks_and_held_to_ours_of_the_same(problem: Problem) -> None:
    measure = compare_weights(problem, 1e-5)
    assert measure("plain loop", make_of_first(plain_loop, 1, problem)()) <= 1e-5
    assert [count_timed("plain loop", lanes, "cpu") for lanes in (1, 16, 256)] == [1, 16, 16]
    assert [count_timed("torch.func.vmap", lanes, "cuda:0") for lanes in (1, 16, 256)] == [1, 16, 64]


def test_the_settings_are_those_that_are_promised() -> None:
    names = [str(setting) for setting in list_settings(quick=False)]
    assert len(names) == len(set(names)) == 4 * 2 * 2 * 5
    assert {"maml stride 1-shot 16 lanes", "ridge pool 5-shot 256 lanes"} <= set(names)


def assert_shares_follow_from_the_rates(row: dict[str, Any]) -> None:
    """As a reader would check them: FLOPs over what was measured of the machine in the same run."""
    details, ours_s = row["details"], row["ours"] / 1e3
    assert row["limit_fraction"] == pytest.approx(details["gflop"] / details["matmul_gflop_per_s"] / ours_s)
    peak = details["peak_gflop_per_s"]
    assert row["peak_fraction"] == (None if peak is None else pytest.approx(details["gflop"] / peak / ours_s))


@pytest.mark.timeout(300)  # seconds of work, but the machine may be busy with others
def test_the_command_ends_with_rows_of_contenders_that_agree() -> None:
    command = [sys.executable, "-m", "app.cli", "benchmark", "adapt", "--quick", "--json", "--threads", "1"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(outcome.stdout)
    assert outcome.stdout.count("\n") == 1
    assert report["benchmark"] == "adapt"
    assert report["environment"]["threads"] == 1
    assert [row["settings"]["method"] for row in report["rows"]] == ["maml", "anil", "protonet", "ridge"]
    for row in report["rows"]:
        assert set(row) == {"settings", "unit", "ours", "peers", "ratio", "limit_fraction", "peak_fraction", "details"}
        assert row["unit"] == "ms"
        assert "plain loop" in row["peers"]
        assert row["ratio"] > 0
        assert row["limit_fraction"] > 0
        assert_shares_follow_from_the_rates(row)
        assert set(row["details"]["differences"]) == set(row["peers"])
        assert max(row["details"]["differences"].values()) <= 1e-4


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "adapt, "),
        (["adapt", "--quick", "--only", "nonsense"], "2 lanes"),
        (["adapt", "--quick", "--out", "no/such/folder/adapt.json"], "a folder that exists, got no/such/folder/adapt.json"),
    ],
)
def test_what_is_refused_is_told_in_one_line_with_status_1(arguments: list[str], told: str) -> None:
    outcome = subprocess.run([sys.executable, "-m", "app.cli", "benchmark", *arguments], capture_output=True, text=True)
    assert outcome.returncode == 1
    assert outcome.stderr.count("\n") == 1
    assert told in outcome.stderr


def test_without_a_checkout_the_command_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from app.cli import cli

    monkeypatch.setitem(sys.modules, "benchmarks.catalogue", None)
    monkeypatch.setitem(sys.modules, "benchmarks", None)
    outcome = CliRunner().invoke(cli, ["benchmark", "adapt"])
    assert outcome.exit_code == 1
    assert "checkout" in outcome.stderr
