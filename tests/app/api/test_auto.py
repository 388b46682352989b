"""`initializer: "auto"` over HTTP, with real learners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.api.schemas import TaskJson
from models.card import Limits
from tests.app.api.conftest import CURVE, INK, Service, base64_text, make_card, make_settings, png, run_service, strokes, write_initializer

LARGE = {**INK, "input_shape": [1, 12, 12]}
TUNED = {**INK, "method": "maml", "inner_steps": 2, "inner_lr": 0.1}


@pytest.fixture(scope="module")
def crowded_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two that read 8 x 8 drawings, one that reads 12 x 12, and one that reads a number."""
    folder = tmp_path_factory.mktemp("crowded")
    write_initializer(folder, make_card("tiny-ink", INK, Limits(5, 20, 2, 0), default_steps=0))
    write_initializer(folder, make_card("tiny-maml", TUNED, Limits(3, 12, 2, 5), default_steps=2))
    write_initializer(folder, make_card("large-ink", LARGE, Limits(5, 20, 2, 0), default_steps=0))
    write_initializer(folder, make_card("tiny-curve", CURVE, Limits(0, 20, 0, 5), default_steps=2))
    return folder


@pytest.fixture
async def crowded(tmp_path: Path, sqlite_url: str, crowded_dir: Path) -> Any:
    settings = make_settings(tmp_path, sqlite_url, crowded_dir).model_copy(update={"auto_budget_ms": 60_000.0})
    async with run_service(settings) as running:
        yield running


async def post(service: Service, **body: Any) -> Any:
    return await service.user.post("/v1/tasks", json={"initializer": "auto", **body}, headers={"Prefer": "wait=20"})


async def test_the_task_says_what_was_tried_and_answers_by_what_was_chosen(crowded: Service) -> None:
    drawings = np.concatenate([strokes(3), strokes(3)]) / 255
    made = await post(crowded, support={"inputs": drawings.tolist(), "labels": ["a", "b", "c"] * 2}, query=drawings[:2].tolist())
    assert made.status_code == 201, made.text
    task = TaskJson.model_validate(made.json())
    assert task.status == "ready", task.error
    assert task.selection is not None
    assert task.selection.chosen is not None
    assert {(trial.initializer, trial.steps) for trial in task.selection.tried} == {("tiny-ink", 0), *(("tiny-maml", n) for n in (1, 2, 4))}
    scores = {(trial.initializer, trial.steps): trial.score for trial in task.selection.tried}
    assert (task.selection.chosen.initializer, task.selection.chosen.steps) == min(scores, key=lambda key: scores[key] or 0.0)
    assert (task.selection.held_out_examples, task.initializer.name) == (6, task.selection.chosen.initializer)
    answers = (await crowded.user.get(task.links["predictions"])).json()["data"][0]
    assert answers["initializer"] == {"name": task.initializer.name, "version": 1}
    again = await post(crowded, support={"inputs": drawings.tolist(), "labels": ["a", "b", "c"] * 2}, query=drawings[:2].tolist())
    assert (again.status_code, again.json()["id"]) == (200, task.id)


async def test_listing_examples_in_another_order_and_renaming_classes_chooses_alike(crowded: Service) -> None:
    drawings, labels = (np.concatenate([strokes(3), np.roll(strokes(3), 1, axis=1)]) / 255).tolist(), ["a", "b", "c"] * 2
    first = (await post(crowded, support={"inputs": drawings, "labels": labels})).json()["selection"]
    renamed = [{"a": "z", "b": "y", "c": "x"}[label] for label in labels]
    second = (await post(crowded, support={"inputs": drawings[::-1], "labels": renamed[::-1]})).json()["selection"]
    losses = [{(t["initializer"], t["steps"]): t["held_out_loss"] for t in selection["tried"]} for selection in (first, second)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


async def test_arrays_tell_their_shape_and_pictures_become_what_most_initializers_read(crowded: Service) -> None:
    large = np.zeros((2, 12, 12)).tolist()
    assert (await post(crowded, support={"inputs": large, "labels": ["a", "b"]})).json()["initializer"]["name"] == "large-ink"
    pictures = {"encoding": "images", "data": [base64_text(png(drawing)) for drawing in strokes(2)]}
    made = (await post(crowded, support={"inputs": pictures, "labels": ["a", "b"]}, query=pictures)).json()
    assert made["initializer"]["name"] in {"tiny-ink", "tiny-maml"}
    curve = await post(crowded, support={"inputs": [0.1, 0.2, 0.3], "labels": [1.0, 2.0, 3.0]})
    assert curve.json()["initializer"]["name"] == "tiny-curve"
    assert {trial["prior"] for trial in curve.json()["selection"]["tried"]} == {None}


async def test_uploaded_files_are_left_to_the_service_too_and_new_examples_choose_again(crowded: Service) -> None:
    files = [
        ("support", (f"{name}/{i}.png", png(drawing), "image/png"))
        for i, (name, drawing) in enumerate(zip("aabb", strokes(4), strict=True))
    ]
    made = await crowded.user.post("/v1/tasks", data={"initializer": "auto"}, files=files, headers={"Prefer": "wait=20"})
    assert made.status_code == 201, made.text
    task = made.json()
    assert task["selection"]["held_out_examples"] == 4
    wide = (strokes(4) / 255).tolist()
    body = {"add": {"inputs": wide, "labels": ["c", "d", "c", "d"]}}
    revised = (await crowded.user.post(task["links"]["support"], json=body, headers={"Prefer": "wait=20"})).json()
    assert (revised["status"], revised["initializer"]["name"], revised["revision"]) == ("ready", "tiny-ink", 2), (
        "maml takes 3 classes at most"
    )
    assert {trial["initializer"] for trial in revised["selection"]["tried"]} == {"tiny-ink"}


@pytest.mark.parametrize(
    ("support", "pointer", "words"),
    [
        ({"inputs": [[1.0, 2.0], [1.0, 2.0]], "labels": ["a", "b"]}, "#/support/inputs/0", "reads image [1, 8, 8]"),
        ({"inputs": (strokes(2) / 255).tolist(), "labels": [1, 2]}, "#/support/inputs/0", "tiny-curve (regression) reads vector [1]"),
        ({"inputs": (strokes(2) / 255).tolist(), "labels": [0, 1]}, "#/support/inputs/0", "classes are named by text"),
        ({"inputs": (strokes(6) / 255).tolist(), "labels": list("abcdef")}, "#/support/labels", "6 classes; tiny-ink takes at most 5"),
        ({"inputs": [], "labels": []}, "#/support/inputs", "empty"),
        ({"inputs": (strokes(2) / 255).tolist(), "labels": ["a", 1]}, "#/support/labels/1", "a class name"),
    ],
)
async def test_what_nothing_takes_is_refused_with_what_there_is(crowded: Service, support: Any, pointer: str, words: str) -> None:
    refused = await post(crowded, support=support)
    assert refused.status_code == 422, refused.text
    issues = {issue["pointer"]: issue["detail"] for issue in refused.json()["errors"]}
    assert pointer in issues, issues
    assert words in str(refused.json()["errors"])


async def test_a_named_task_has_no_selection(service: Service) -> None:
    body = {"initializer": "tiny-ink", "support": {"inputs": (strokes(2) / 255).tolist(), "labels": ["a", "b"]}}
    made = await service.user.post("/v1/tasks", json=body, headers={"Prefer": "wait=20"})
    assert made.json()["selection"] is None
