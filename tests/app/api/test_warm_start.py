"""Warm starts over HTTP, with real learners."""

from __future__ import annotations

from typing import Any

import pytest

from tests.app.api.conftest import Service, make_task, strokes


def curve(slope: float, points: int = 6) -> dict[str, Any]:
    xs = [i / points for i in range(1, points + 1)]
    return {"inputs": [[x] for x in xs], "labels": [slope * x for x in xs]}


async def test_a_similar_task_is_a_better_start_and_the_state_survives_its_end(service: Service) -> None:
    near = await make_task(service.user, initializer="tiny-curve", support=curve(3.0, 20), options={"steps": 5})
    warm = await make_task(service.user, initializer="tiny-curve", support=curve(3.1), options={"warm_start": True, "steps": 1})
    report = warm["warm_start"]
    assert (report["kept"], report["from_task"]) == (True, near["id"]), report
    assert report["held_out"]["warm"] < report["held_out"]["cold"]
    assert warm["options"] == {"steps": 1, "warm_start": True}
    cold = await make_task(service.user, initializer="tiny-curve", support=curve(3.1), options={"steps": 1})
    assert cold["warm_start"] is None
    assert warm["loss"][0] < cold["loss"][0], "it begins where the other task ended"
    body = {"inputs": [[0.3], [2.0]]}
    before = (await service.user.post(warm["links"]["predictions"], json=body)).json()["predictions"]
    assert (await service.user.delete(near["links"]["self"])).status_code == 204
    predictions = service.app.state.door.predictions
    predictions._engine.forget(warm["id"])
    await predictions._states._cache.delete_task(warm["id"])
    after = (await service.user.post(warm["links"]["predictions"], json=body)).json()["predictions"]
    assert after == before


async def test_a_learner_that_cannot_start_elsewhere_points_at_the_option(service: Service) -> None:
    inputs = (strokes(4) / 255).tolist()
    body = {"initializer": "tiny-ink", "support": {"inputs": inputs, "labels": ["a", "b", "c", "d"]}, "options": {"warm_start": True}}
    response = await service.user.post("/v1/tasks", json=body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_options")
    assert response.json()["errors"][0]["pointer"] == "#/options/warm_start"


@pytest.mark.parametrize("wish", ["yes", 1, None])
async def test_the_wish_is_true_or_false(service: Service, wish: object) -> None:
    body = {"initializer": "tiny-curve", "support": curve(1.0), "options": {"warm_start": wish}}
    response = await service.user.post("/v1/tasks", json=body)
    assert response.json()["errors"][0]["pointer"] == "#/options/warm_start"
