from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

import models.artifact
from models.artifact import (
    Card,
    InputSpec,
    Limits,
    list_bundled,
    load_initializer,
    load_initializer_bytes,
    read_card,
    save_initializer,
)
from models.errors import CheckpointCorrupt
from models.methods import build_learner
from models.support import Params

IMAGE_LEARNER = {
    "method": "protonet",
    "kind": "classification",
    "input_shape": [1, 16, 16],
    "backbone": {"kind": "conv4", "filters": 8, "groups": 2},
}
CURVE_LEARNER = {"method": "maml", "kind": "regression", "input_shape": [1], "backbone": {"kind": "mlp", "hidden": [8]}}


def make_card(learner: dict[str, Any]) -> Card:
    is_image = learner is IMAGE_LEARNER
    return Card(
        name="tiny",
        learner=learner,
        input=InputSpec("image" if is_image else "vector", tuple(learner["input_shape"]), "bright" if is_image else None, None),
        limits=Limits(max_way=4, max_support=20, min_way=2, max_steps=3),
        default_steps=0,
        recipe={},
        data="none",
        seed=0,
        meta_steps=0,
        git_revision=None,
        trained_with="by hand",
        train_seconds=0.0,
        hardware="none",
        torch_version=str(torch.__version__),
        created_at="2026-01-01T00:00:00+00:00",
    )


def make_params(learner: dict[str, Any]) -> Params:
    return build_learner(learner).init(torch.Generator().manual_seed(1))


def save_tiny(folder: Path, learner: dict[str, Any] = IMAGE_LEARNER) -> tuple[dict[str, Any], bytes]:
    save_initializer(folder, make_card(learner), make_params(learner))
    return json.loads((folder / "card.json").read_text()), (folder / "initializer.safetensors").read_bytes()


@pytest.mark.parametrize("learner", [IMAGE_LEARNER, CURVE_LEARNER])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, learner: dict[str, Any]) -> None:
    card = save_initializer(tmp_path / "tiny", make_card(learner), make_params(learner))
    loaded = load_initializer(tmp_path / "tiny")
    assert loaded.card == card == read_card(tmp_path / "tiny")
    assert all(torch.equal(loaded.params[name], tensor) for name, tensor in make_params(learner).items())
    assert loaded.learner == build_learner(learner)


def test_saving_over_an_initializer_leaves_only_the_new_one(tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny", CURVE_LEARNER)
    save_tiny(tmp_path / "tiny", IMAGE_LEARNER)
    assert load_initializer(tmp_path / "tiny").learner.kind == "classification"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_failed_save_leaves_the_old_initializer_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = save_tiny(tmp_path / "tiny")

    def fail(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(models.artifact, "write_durably", fail)
    with pytest.raises(OSError, match="no space"):
        save_tiny(tmp_path / "tiny", CURVE_LEARNER)
    assert load_initializer(tmp_path / "tiny").card.sha256 == before[0]["sha256"]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_weights_that_do_not_fit_the_learner_are_not_saved(tmp_path: Path) -> None:
    params = make_params(IMAGE_LEARNER)
    params["conv1.weight"] = params["conv1.weight"][:4]
    with pytest.raises(CheckpointCorrupt, match=r"conv1\.weight must be torch\.float32 \(8, 1, 3, 3\), got .*\(4, 1, 3, 3\)"):
        save_initializer(tmp_path / "tiny", make_card(IMAGE_LEARNER), params)
    assert not (tmp_path / "tiny").exists()


def test_a_changed_byte_of_the_weights_is_refused(tmp_path: Path) -> None:
    card, weights = save_tiny(tmp_path / "tiny")
    with pytest.raises(CheckpointCorrupt, match=f"the card expects {card['sha256']}"):
        load_initializer_bytes(card, weights[:-1] + bytes([weights[-1] ^ 1]))


def reseal(card: dict[str, Any], params: Params) -> tuple[dict[str, Any], bytes]:
    """Other weights under a card whose digest holds."""
    import hashlib

    weights = save(params)
    return {**card, "sha256": hashlib.sha256(weights).hexdigest()}, weights


def test_weights_under_another_golden_episode_are_refused(tmp_path: Path) -> None:
    card, _ = save_tiny(tmp_path / "tiny")
    params = load_file(tmp_path / "tiny" / "initializer.safetensors")
    params["norm4.scale"] *= 1.05
    with pytest.raises(CheckpointCorrupt, match="golden episode is off by"):
        load_initializer_bytes(*reseal(card, params))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    card, _ = save_tiny(tmp_path / "tiny")
    params = load_file(tmp_path / "tiny" / "initializer.safetensors")
    params["norm1.shift"][0] = torch.nan
    with pytest.raises(CheckpointCorrupt, match=r"norm1\.shift must be finite"):
        load_initializer_bytes(*reseal(card, params))


def test_a_missing_and_an_unknown_tensor_are_named(tmp_path: Path) -> None:
    card, _ = save_tiny(tmp_path / "tiny")
    params = load_file(tmp_path / "tiny" / "initializer.safetensors")
    params["stray"] = params.pop("norm1.shift")
    with pytest.raises(CheckpointCorrupt, match=r"lack \['norm1\.shift'\] and have unknown tensors \['stray'\]"):
        load_initializer_bytes(*reseal(card, params))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format_version": 2}, "format_version must be 1, got 2"),
        ({"surprise": 1}, r"unknown keys \['surprise'\]"),
        ({"limits": {"max_way": 4}}, r"card\.limits lacks"),
        ({"limits": {"max_way": -1, "max_support": 1, "min_way": 1, "max_steps": 1}}, "at least 0"),
        ({"limits": {"max_way": 4, "max_support": 1, "min_way": 1, "max_steps": 1, "note": 3}}, r"card\.limits\.note must be a string"),
        ({"input": []}, r"card\.input must be a JSON object"),
        ({"learner": {"method": "magic"}}, "describes no learner"),
        ({"golden": {}}, r"card\.golden must hold"),
    ],
)
def test_a_faulty_card_is_refused_with_the_place(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    card, weights = save_tiny(tmp_path / "tiny")
    with pytest.raises(CheckpointCorrupt, match=complaint):
        load_initializer_bytes({**card, **change}, weights)


def test_bytes_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    import hashlib

    card, _ = save_tiny(tmp_path / "tiny")
    with pytest.raises(CheckpointCorrupt, match="not safetensors"):
        load_initializer_bytes({**card, "sha256": hashlib.sha256(b"weights").hexdigest()}, b"weights")


def test_a_folder_without_files_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointCorrupt, match=r"must hold card\.json and initializer\.safetensors"):
        load_initializer(tmp_path)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(CheckpointCorrupt, match="is not JSON"):
        read_card(tmp_path)


def test_every_bundled_initializer_loads_and_is_small() -> None:
    for folder in list_bundled():
        initializer = load_initializer(folder)
        assert initializer.card.name == folder.name
        assert (folder / "initializer.safetensors").stat().st_size < 2_000_000


def test_the_card_does_not_change_on_its_way_through_json(tmp_path: Path) -> None:
    card = replace(make_card(IMAGE_LEARNER), accuracy=[{"n_way": 5, "accuracy": 98.1}])
    saved = save_initializer(tmp_path / "tiny", card, make_params(IMAGE_LEARNER))
    assert replace(saved, golden={}, sha256="") == card
