"""A learner of another package: the files of docs/learners.md, installed by pip, trained, and served without a change in this project."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.artifact import load_initializer
from models.errors import CheckpointCorrupt, InvalidOptions
from models.methods import build_learner, find_method, list_methods
from models.training import train
from tests.app.api.conftest import make_settings, run_service
from tests.architecture.documents import ROOT
from tests.laws import test_laws as laws
from tests.laws import test_one_device as one_device
from tests.laws.conftest import World
from tests.models.small_data import write_small_omniglot

pytest.importorskip("hatchling", reason="hatchling comes with the dev extra")

NAME = "nearest-median"
RECIPE = "omniglot-nearest-median.toml"
_FILE = re.compile(r"^<!-- file: (?P<name>\S+) -->\n```\w+\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page."""
    folder = tmp_path_factory.mktemp("package")
    for found in _FILE.finditer((ROOT / "docs" / "learners.md").read_text()):
        (folder / found["name"]).write_text(found["text"])
    return folder


@pytest.fixture(scope="module")
def site(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has installed the page's package, without its isolation and so without a download."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(package)], check=True, capture_output=True)
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has the package for one test."""
    have_package(monkeypatch, site)


def have_package(monkeypatch: pytest.MonkeyPatch, site: Path) -> None:
    """The package can be imported until `monkeypatch` is undone, and is forgotten then."""
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setitem(sys.modules, "nearest_median", None)
    monkeypatch.delitem(sys.modules, "nearest_median")


@pytest.fixture(scope="module")
def made(package: Path, site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The initializer that the page's recipe makes of a few steps on synthetic classes."""
    folder = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as there:
        have_package(there, site)
        there.setenv("INNERLOOP_DATA_DIR", str(write_small_omniglot(folder).parent))
        outcome = train(package / RECIPE, out=folder / "run", steps=8, threads=1)
    assert outcome.initializer is not None
    return outcome.initializer


def test_a_package_that_is_not_installed_is_not_there() -> None:
    assert NAME not in list_methods()
    with pytest.raises(InvalidOptions, match="method must be one of"):
        find_method(NAME)


@pytest.mark.usefixtures("installed")
def test_it_is_found_with_its_options_and_its_kinds() -> None:
    assert NAME in list_methods()
    spec = {"method": NAME, "kind": "classification", "input_shape": [6], "backbone": {"kind": "mlp", "hidden": [16, 8]}}
    assert build_learner({**spec, "sharpness": 3.0}).sharpness == 3.0  # type: ignore[attr-defined]
    with pytest.raises(InvalidOptions, match=r"nearest-median has no option \['sharpnes'\]; it has"):
        build_learner({**spec, "sharpnes": 3.0})
    with pytest.raises(InvalidOptions, match="nearest-median does classification only"):
        build_learner({**spec, "kind": "regression"})


@pytest.mark.usefixtures("installed")
def test_it_keeps_the_laws() -> None:
    spec = {"method": NAME, "kind": "classification", "input_shape": [6], "backbone": {"kind": "mlp", "hidden": [16, 8]}}
    learner, generator = build_learner(spec), torch.Generator().manual_seed(7)
    world = World(learner, {name: tensor.double() for name, tensor in learner.init(generator).items()}, generator)
    company = laws.TestAloneIsTogether()
    company.test_a_lane_adapts_alike_in_any_company_and_position(world)
    company.test_the_adapted_tensors_are_the_same_too(world)
    company.test_a_lane_answers_alike_beside_other_states(world)
    company.test_the_curve_of_a_lane_does_not_know_the_padding(world)
    laws.test_one_query_is_answered_as_in_a_batch_of_many(world)
    laws.test_permuting_the_support_set_changes_nothing(world)
    laws.test_permuting_the_classes_permutes_the_answer(world)
    laws.test_adapting_and_predicting_write_nothing_to_the_learner(world, True)
    laws.test_a_state_shares_no_memory_with_the_learner_or_the_support_set(world, True)
    laws.test_what_the_examples_are_called_decides_the_answer(world)
    laws.test_the_same_support_gives_the_same_state_bit_for_bit(world)
    one_device.hold(world, one_device.use)


@pytest.mark.usefixtures("installed")
async def test_it_is_trained_saved_loaded_and_served(made: Path, tmp_path: Path, sqlite_url: str) -> None:
    initializer = load_initializer(made)
    assert type(initializer.learner).__module__ == "nearest_median"
    fresh = initializer.learner.init(torch.Generator().manual_seed(initializer.card.seed))
    assert all(not torch.equal(initializer.params[name], tensor) for name, tensor in fresh.items()), "nothing was trained"

    shutil.copytree(made, tmp_path / "served" / initializer.card.name)
    async with run_service(make_settings(tmp_path, sqlite_url, tmp_path / "served")) as service:
        support = {"inputs": patterns([0, 0, 0, 1, 1, 1], seed=1), "labels": ["left", "left", "right", "right", "right", "right"]}
        body = {"initializer": initializer.card.name, "support": support}
        task = (await service.user.post("/v1/tasks", json=body, headers={"Prefer": "wait=20"})).json()
        assert task["status"] == "ready", task
        answers = await service.user.post(task["links"]["predictions"], json={"inputs": patterns([1, 0], seed=2)})
    # The third drawing, on the left, is labelled right: the median of four does not mind.
    assert [answer["label"] for answer in answers.json()["predictions"]] == ["right", "left"], answers.text


def patterns(sides: list[int], seed: int) -> list[object]:
    """Drawings (n, 1, 28, 28) that are bright on the left (0) or the right (1), with noise."""
    images = np.random.default_rng(seed).random((len(sides), 1, 28, 28)) * 0.2
    for image, side in zip(images, sides, strict=True):
        image[0, :, 14 * side : 14 * (side + 1)] += 0.7
    answer: list[object] = images.round(3).tolist()
    return answer


def test_an_initializer_of_a_package_that_is_gone_is_refused_with_words(made: Path) -> None:
    with pytest.raises(CheckpointCorrupt, match=r"describes no learner of this version: method must be one of .* got 'nearest-median'"):
        load_initializer(made)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import a_package_that_nobody_has", "cannot be loaded from nearest_median:NearestMedian: ModuleNotFoundError: No module named"),
        ("raise RuntimeError('no licence')", "cannot be loaded from nearest_median:NearestMedian: RuntimeError: no licence"),
        ("import sys; sys.exit('bye')", "cannot be loaded from nearest_median:NearestMedian: SystemExit: bye"),
        ("def broken(:", "cannot be loaded from nearest_median:NearestMedian: SyntaxError"),
        ("", "cannot be loaded from nearest_median:NearestMedian: AttributeError"),
        ("class NearestMedian: ...", "must be a dataclass, got <class 'nearest_median.NearestMedian'> from nearest_median:NearestMedian"),
        ("NearestMedian = 3", "must be a dataclass, got 3 from nearest_median:NearestMedian"),
    ],
)
def test_a_package_that_is_broken_harms_only_its_own_method(
    text: str, words: str, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(site, tmp_path / "broken", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "broken" / "nearest_median.py").write_text(text + "\n")
    have_package(monkeypatch, tmp_path / "broken")
    with pytest.raises(InvalidOptions, match=f"{NAME} of an installed package {words}"):
        find_method(NAME)
    assert NAME in list_methods()
    assert find_method("protonet").__name__ == "ProtoNet"
